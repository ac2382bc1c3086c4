//! A set of policies: read from a file or a folder, checked as a whole, or refused as a whole.
//!
//! Every policy is validated against the schema in strict mode; one that can never match is an error, as are an annotation
//! that nobody knows and an id that is given twice, each with line and column. A missing file, an empty folder, a text
//! without a policy or one that is cut off gives no set at all, so that a mistake never opens the door
//! (`a_set_that_is_cut_off_anywhere_is_refused`). At most 1,000 files, 16 MiB and 20,000 policies; `bounds` says how deep one
//! may be.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedar_policy::{Policy, PolicyId, ValidationMode, ValidationWarning, Validator};
use miette::Diagnostic;

use crate::kavach::rule::{self, Rule};
use crate::kavach::slice::Index;
use crate::kavach::{admin, bounds, schema};

const MAX_FILES: usize = 1_000;
const MAX_BYTES: u64 = 16 * 1024 * 1024;
const MAX_POLICIES: usize = 20_000;
/// The first and the last line of a file that is refused when its end is missing.
const BEGIN: &str = "// begin";
const END: &str = "// end";

/// One fault or warning of a set of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; 0 means the whole file.
    pub line: usize,
    /// The column in that line, in characters from 1; 0 means the whole file.
    pub column: usize,
    /// The policy's id, if it is known.
    pub policy: Option<String>,
    /// What is wrong, and what to write instead.
    pub text: String,
}

impl fmt::Display for Problem {
    /// `file:line:column: policy: text`, without the parts that are not known.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.file)?;
        if self.line > 0 {
            write!(out, "{}:{}:", self.line, self.column)?;
        }
        if let Some(policy) = &self.policy {
            write!(out, " policy {policy}:")?;
        }
        write!(out, " {}", self.text)
    }
}

/// A text of policies and where it is from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name for texts of faults.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// A set of policies that passed every check. Never changes.
#[derive(Debug)]
pub struct PolicySet {
    pub(super) rules: Vec<Rule>,
    pub(super) by_id: HashMap<PolicyId, usize>,
    pub(super) index: Index,
    /// Those about operators, if there are any.
    pub(super) about_operators: Option<cedar_policy::PolicySet>,
    hash: String,
    warnings: Vec<Problem>,
}

impl PolicySet {
    /// Reads a file, or every `*.cedar` of a folder in the order of their names. What is called so and is no file, such as a link
    /// that leads nowhere, is a fault: it could be what forbids.
    ///
    /// # Errors
    /// Every fault that was found; at least one.
    ///
    /// *Cost*: reads files; about 100 µs for each policy, most of it validation.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        Self::from_sources(read(path)?)
    }

    /// A set of one text.
    ///
    /// # Errors
    /// As for [`PolicySet::load`].
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Problem>> {
        Self::from_sources(vec![Source { name: name.to_owned(), text: text.to_owned() }])
    }

    /// A set of several texts.
    ///
    /// # Errors
    /// As for [`PolicySet::load`].
    pub fn from_sources(sources: Vec<Source>) -> Result<Self, Vec<Problem>> {
        let too_deep = |source: &Source| {
            let (offset, text) = bounds::check(&source.text).err()?;
            Some(at(source, offset, None, text))
        };
        let problems: Vec<Problem> = sources.iter().filter_map(too_deep).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let built = bounds::with_room(move || Self::build(sources));
        built.unwrap_or_else(|error| Err(vec![whole("", format!("no thread could be started to read them: {error}"))]))
    }

    fn build(sources: Vec<Source>) -> Result<Self, Vec<Problem>> {
        let mut problems: Vec<Problem> = sources.iter().filter_map(cut_off).collect();
        let mut rules = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            match rules_of(source, number) {
                Ok(found) => rules.extend(found),
                Err(faults) => problems.extend(faults),
            }
        }
        if rules.is_empty() && problems.is_empty() {
            let name = sources.first().map(|source| source.name.clone()).unwrap_or_default();
            problems.push(whole(&name, "it holds no policy; to refuse every call, write a forbid".to_owned()));
        }
        if rules.len() > MAX_POLICIES {
            let name = sources.first().map(|source| source.name.clone()).unwrap_or_default();
            problems.push(whole(&name, format!("there are {} policies; the most is {MAX_POLICIES}", rules.len())));
        }
        problems.extend(twice(&rules, &sources));
        if !problems.is_empty() {
            return Err(problems);
        }
        let (about_operators, about_calls) = divided(&rules, &sources)?;
        let warnings = validate(&about_calls, &sources, schema::schema());
        let more = validate(&about_operators, &sources, admin::schema());
        let warnings = match (warnings, more) {
            (Ok(warnings), Ok(more)) => warnings.into_iter().chain(more).collect(),
            (one, other) => return Err(one.err().into_iter().chain(other.err()).flatten().collect()),
        };
        let about_operators = if about_operators.is_empty() {
            None
        } else {
            let policies = about_operators.iter().map(|rule| rule.policy.clone());
            Some(cedar_policy::PolicySet::from_policies(policies).map_err(|error| vec![whole("", error.to_string())])?)
        };
        let by_id = rules.iter().enumerate().map(|(index, rule)| (rule.policy.id().clone(), index)).collect();
        Ok(Self { index: Index::of(&rules), hash: hash(&rules), about_operators, by_id, rules, warnings })
    }

    /// The BLAKE3 hash of the policies in canonical JSON, by id, in hexadecimal: comments, white space, order and the names
    /// of files do not count.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What the validator finds odd.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The policies, in the order of the text.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// A text of policies in the one form, comments kept: lines of at most 120 characters, two spaces a step. The lines
/// `// begin` and `// end` stay where they are.
///
/// # Errors
/// A sentence, when the text cannot be parsed.
pub fn formatted(text: &str) -> Result<String, String> {
    let trimmed = text.trim();
    let framed = trimmed.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
    let config = cedar_policy_formatter::Config { line_width: 120, indent_width: 2 };
    bounds::check(trimmed).map_err(|(_, text)| text)?;
    let format = || cedar_policy_formatter::policies_str_to_pretty(framed.unwrap_or(trimmed), &config);
    let inner =
        bounds::with_room(|| format().map_err(|error| error.to_string())).map_err(|error| error.to_string())??;
    let inner = inner.trim();
    Ok(if framed.is_some() { format!("{BEGIN}\n{inner}\n{END}\n") } else { format!("{inner}\n") })
}

/// A text without its first line `// begin` and its last line `// end`, if it has both.
pub fn unframed(text: &str) -> &str {
    let trimmed = text.trim();
    trimmed.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).unwrap_or(trimmed)
}

/// Reads a file, or every `*.cedar` of a folder, without looking at the content.
///
/// # Errors
/// Whatever is missing, too large, not UTF-8 or changed while it was read.
pub fn read(path: &Path) -> Result<Vec<Source>, Vec<Problem>> {
    let mut sources = Vec::new();
    let mut left = MAX_BYTES;
    for file in files(path).map_err(|text| vec![whole(&path.display().to_string(), text)])? {
        let name = file.display().to_string();
        let text = read_file(&file, &mut left).map_err(|text| vec![whole(&name, text)])?;
        sources.push(Source { name, text });
    }
    Ok(sources)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let missing = |error: std::io::Error| format!("the policies cannot be read: {error}");
    if !std::fs::metadata(path).map_err(missing)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(missing)? {
        let file = entry.map_err(missing)?.path();
        let is_named = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("cedar"));
        // Emacs notes in such links who edits a file; they lead nowhere.
        let is_lock = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".#"));
        if is_named && !is_lock {
            found.push(file);
        }
        if found.len() > MAX_FILES {
            return Err(format!("there are more than {MAX_FILES} files"));
        }
    }
    if found.is_empty() {
        return Err("the folder holds no file *.cedar".to_owned());
    }
    found.sort();
    Ok(found)
}

fn read_file(file: &Path, left: &mut u64) -> Result<String, String> {
    let state = || {
        let found = std::fs::metadata(file).map_err(|error| format!("it cannot be read: {error}"))?;
        if !found.is_file() {
            // A pipe would be waited for, and what is left out could be what forbids.
            return Err("it is no file; move it elsewhere, or give it another ending than .cedar".to_owned());
        }
        Ok::<_, String>((found.len(), found.modified().ok()))
    };
    let before = state()?;
    *left = left.checked_sub(before.0).ok_or_else(|| format!("the policies are larger than {MAX_BYTES} bytes"))?;
    let bytes = std::fs::read(file).map_err(|error| format!("it cannot be read: {error}"))?;
    if state()? != before || bytes.len() as u64 != before.0 {
        return Err("it changed while it was read; try again".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

fn whole(file: &str, text: String) -> Problem {
    Problem { file: file.to_owned(), line: 0, column: 0, policy: None, text }
}

/// A text whose first line is `// begin` must have `// end` as its last: half a file is not a smaller set.
fn cut_off(source: &Source) -> Option<Problem> {
    let mut lines = source.text.lines().map(str::trim).filter(|line| !line.is_empty());
    let begun = lines.next() == Some(BEGIN);
    let ended = lines.next_back() == Some(END) && source.text.ends_with('\n');
    let text = format!("it begins with `{BEGIN}` but does not end with a line `{END}`: its end is missing");
    (begun && !ended).then(|| whole(&source.name, text))
}

fn rules_of(source: &Source, number: usize) -> Result<Vec<Rule>, Vec<Problem>> {
    let parsed: cedar_policy::PolicySet = source.text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        errors.iter().map(|error| located(source, None, error)).collect::<Vec<_>>()
    })?;
    if parsed.num_of_templates() > 0 {
        return Err(vec![whole(&source.name, "templates (?principal, ?resource) are not taken".to_owned())]);
    }
    let mut policies: Vec<&Policy> = parsed.policies().collect();
    policies.sort_by_key(|policy| in_text(policy));
    let mut rules = Vec::new();
    let mut problems = Vec::new();
    let mut from = 0;
    for (count, policy) in policies.into_iter().enumerate() {
        let text = policy.to_cedar().unwrap_or_default();
        let offset = source.text.get(from..).and_then(|rest| rest.find(text.as_str())).map_or(from, |at| from + at);
        from = offset;
        let fallback = format!("{}#{}", stem(&source.name), count + 1);
        match rule::of(policy, &fallback) {
            Ok(rule) => rules.push(Rule { source: number, offset, ..rule }),
            Err(text) => problems.push(at(source, offset, policy.annotation("id").map(str::to_owned), text)),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

/// The number in the id that the parser gives to a policy: its place in the text.
fn in_text(policy: &Policy) -> usize {
    policy.id().to_string().trim_start_matches("policy").parse().unwrap_or(usize::MAX)
}

fn stem(name: &str) -> &str {
    Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or("policy")
}

fn twice(rules: &[Rule], sources: &[Source]) -> Vec<Problem> {
    let mut seen: HashMap<&Arc<str>, &Rule> = HashMap::new();
    let mut problems = Vec::new();
    for rule in rules {
        let Some(source) = sources.get(rule.source) else { continue };
        if let Some(first) = seen.insert(&rule.id, rule) {
            let place = sources.get(first.source).map(|source| at(source, first.offset, None, String::new()));
            let place = place.map(|place| format!("{}:{}", place.file, place.line)).unwrap_or_default();
            let text = format!("this id is already given at {place}; give each policy its own");
            problems.push(at(source, rule.offset, Some(rule.id.to_string()), text));
        }
    }
    problems
}

/// The policies about operators, and those about calls.
type Divided<'r> = (Vec<&'r Rule>, Vec<&'r Rule>);

fn divided<'r>(rules: &'r [Rule], sources: &[Source]) -> Result<Divided<'r>, Vec<Problem>> {
    let (mut divided, mut problems) = (Divided::default(), Vec::new());
    for rule in rules {
        match (admin::is_about_operators(rule), sources.get(rule.source)) {
            (Ok(true), _) => divided.0.push(rule),
            (Ok(false), _) => divided.1.push(rule),
            (Err(text), Some(source)) => problems.push(at(source, rule.offset, Some(rule.id.to_string()), text)),
            (Err(text), None) => problems.push(whole("", text)),
        }
    }
    if problems.is_empty() { Ok(divided) } else { Err(problems) }
}

/// The warnings of Cedar's validator, or its errors.
fn validate(rules: &[&Rule], sources: &[Source], schema: &cedar_policy::Schema) -> Result<Vec<Problem>, Vec<Problem>> {
    let set = cedar_policy::PolicySet::from_policies(rules.iter().map(|rule| rule.policy.clone()))
        .map_err(|error| vec![whole("", error.to_string())])?;
    let by_id: HashMap<&PolicyId, &Rule> = rules.iter().map(|rule| (rule.policy.id(), *rule)).collect();
    let found = |id: &PolicyId, diagnostic: &dyn Diagnostic| {
        let rule = by_id.get(id)?;
        let source = sources.get(rule.source)?;
        Some(located(source, Some(rule), diagnostic))
    };
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    let mut errors: Vec<Problem> =
        result.validation_errors().filter_map(|error| found(error.policy_id(), error)).collect();
    let mut warnings = Vec::new();
    for warning in result.validation_warnings() {
        let Some(mut problem) = found(warning.policy_id(), warning) else { continue };
        if matches!(warning, ValidationWarning::ImpossiblePolicy(_)) {
            // A policy that is at fault is impossible because of that.
            if errors.iter().any(|error| error.policy == problem.policy) {
                continue;
            }
            problem.text = "it can never match any call; correct its scope or its condition, or remove it".to_owned();
            errors.push(problem);
        } else {
            warnings.push(problem);
        }
    }
    if !result.validation_passed() && errors.is_empty() {
        errors.push(whole("", result.to_string()));
    }
    // The validator looks at each kind of call on its own and so says the same thing several times.
    for list in [&mut errors, &mut warnings] {
        list.sort_by(|one, other| {
            (&one.file, one.line, one.column, &one.text).cmp(&(&other.file, other.line, other.column, &other.text))
        });
        list.dedup();
    }
    if errors.is_empty() { Ok(warnings) } else { Err(errors) }
}

/// What a diagnostic says, where its first label is.
fn located(source: &Source, rule: Option<&Rule>, diagnostic: &dyn Diagnostic) -> Problem {
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let offset = label.map_or_else(|| rule.map_or(0, |rule| rule.offset), |label| label.offset());
    let help = diagnostic.help().map(|help| format!("; {help}")).unwrap_or_default();
    let mut text = diagnostic.to_string();
    if let Some(rest) = text.strip_prefix("for policy `")
        && let Some((_, rest)) = rest.split_once("`, ").or_else(|| rest.split_once("`: "))
    {
        text = rest.to_owned();
    }
    // Every action has the same context, so which one the validator was at says nothing.
    let named = text.split_once(" for Action::\"").or_else(|| text.split_once(" for Admin::Action::\""));
    if let Some((before, rest)) = named
        && let Some((_, after)) = rest.split_once('"')
    {
        text = format!("{before}{after}");
    }
    at(source, offset, rule.map(|rule| rule.id.to_string()), format!("{text}{help}"))
}

fn at(source: &Source, offset: usize, policy: Option<String>, text: String) -> Problem {
    let before = source.text.get(..offset).unwrap_or(&source.text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Problem { file: source.name.clone(), line, column, policy, text }
}

fn hash(rules: &[Rule]) -> String {
    let mut texts: Vec<(&str, String)> = rules.iter().map(|rule| (&*rule.id, rule.canonical.clone())).collect();
    texts.sort();
    let mut hasher = blake3::Hasher::new();
    for (id, text) in texts {
        for part in [id, &text] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}
