"use strict";

// Makes the reference from the document. Texts go in as text nodes only.
function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function table(rows) {
  return element("table", ...rows.map((cells) => element("tr", ...cells.map((cell) => element("td", cell)))));
}

function operation(path, verb, operation) {
  const label = element("code", path);
  const mark = element("span", verb.toUpperCase());
  mark.className = "verb";
  const body = element("details", element("summary", mark, label, " – " + (operation.summary || "")));
  if (operation.description && operation.description !== operation.summary) {
    body.append(element("p", operation.description));
  }
  const roles = (operation.security || []).flatMap((need) => need.admin_token || []);
  body.append(element("p", roles.length ? "Roles: " + roles.join(", ") + "." : "No token needed."));
  const parameters = (operation.parameters || []).map((p) => [element("code", p.name), p.in, p.description || ""]);
  if (parameters.length) {
    body.append(table(parameters));
  }
  body.append(table(Object.entries(operation.responses).map(([status, r]) => [status, r.description || ""])));
  return body;
}

async function show() {
  const place = document.getElementById("reference");
  const answer = await fetch("/admin/openapi.json");
  const api = await answer.json();
  const groups = new Map();
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, op] of Object.entries(verbs)) {
      if (!op.responses) continue;
      const tag = (op.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operation(path, verb, op));
    }
  }
  place.replaceChildren();
  for (const [tag, operations] of groups) {
    place.append(element("h2", tag), ...operations);
  }
}

show().catch(() => {
  document.getElementById("reference").textContent = "The document could not be read.";
});
