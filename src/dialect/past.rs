//! Paths that lead past Marg: to sessions between the application and the provider, to credentials of the provider, and to the
//! administration of its account or of the server itself.
//!
//! What these open is neither recorded nor limited, so nobody is let in, by no method. A path is matched as a lenient server
//! could read it: decoded, in small letters, without what separates words, so that `admin-api-keys` and `adminApiKeys` are one.

/// Segments that mean this at any place, without what separates words.
///
/// *Sources*: `client_secret` in <https://platform.openai.com/docs/api-reference/realtime-sessions>; `value` in
/// <https://platform.openai.com/docs/api-reference/admin-api-keys> and of service accounts;
/// <https://docs.fireworks.ai/api-reference/create-api-key> (`users/…/apiKeys`, `secrets`);
/// <https://openrouter.ai/docs/api-reference> (`byok`); <https://docs.litellm.ai/docs/proxy/management_client> (`credentials`);
/// <https://ai.google.dev/gemini-api/docs/ephemeral-tokens> (`authTokens`).
const ANYWHERE: &[&str] = &[
    "realtime",
    "clientsecret",
    "clientsecrets",
    "apikey",
    "apikeys",
    "adminapikey",
    "adminapikeys",
    "virtualkey",
    "virtualkeys",
    "accesskey",
    "accesskeys",
    "apitoken",
    "apitokens",
    "accesstoken",
    "accesstokens",
    "authtoken",
    "authtokens",
    "refreshtoken",
    "refreshtokens",
    "ephemeraltoken",
    "ephemeraltokens",
    "singleusetoken",
    "singleusetokens",
    "scopedjwt",
    "oauth",
    "oauth2",
    "serviceaccount",
    "serviceaccounts",
    "serviceprincipals",
    "credential",
    "credentials",
    "secret",
    "secrets",
    "vault",
    "vaults",
    "byok",
    "regeneratekey",
    "listkeys",
];

/// Segments that mean this where a path begins; deeper they could be names that somebody gave.
///
/// *Sources*: `organization/…` of <https://platform.openai.com/docs/api-reference/administration>; `organizations/…` of
/// <https://docs.anthropic.com/en/api/administration-api>; `auth`, `keys`, `key`, `credits`, `guardrails`, `workspaces`, `activity`,
/// `analytics`, `observability` of <https://openrouter.ai/docs/api-reference>; `key`, `user`, `team`, `customer`, `budget`, `model`
/// and others of <https://litellm-api.up.railway.app>; `accounts/…` of <https://docs.fireworks.ai/api-reference>;
/// `users/me/balance` of <https://platform.kimi.ai/docs/api/balance>; `virtual-keys`, `configs`, `integrations`, `logs` of
/// <https://portkey.ai/docs/api-reference/admin-api>; `internal`, `model` and `lora` of text-generation-webui and TabbyAPI.
const FIRST: &[&str] = &[
    // Credentials, and who may have them.
    "auth",
    "authenticate",
    "checkapikey",
    "iam",
    "identity",
    "invitation",
    "invitations",
    "invite",
    "invites",
    "jwt",
    "key",
    "keys",
    "live",
    "login",
    "logout",
    "member",
    "members",
    "permission",
    "permissions",
    "register",
    "role",
    "roles",
    "scim",
    "signup",
    "sso",
    "whoami",
    "whoamiv2",
    // Accounts, and what they spend.
    "account",
    "accounts",
    "activity",
    "analytics",
    "audit",
    "auditlogs",
    "balance",
    "billing",
    "budget",
    "budgets",
    "channel",
    "channels",
    "credit",
    "credits",
    "customer",
    "customers",
    "dashboard",
    "enduser",
    "global",
    "invoice",
    "invoices",
    "org",
    "organization",
    "organizations",
    "orgs",
    "payment",
    "payments",
    "project",
    "projects",
    "spend",
    "subscription",
    "subscriptions",
    "team",
    "teams",
    "tenant",
    "tenants",
    "usage",
    "user",
    "users",
    "workspace",
    "workspaces",
    // Gateways and servers.
    "admin",
    "alerting",
    "cache",
    "callbacks",
    "config",
    "configs",
    "guardrails",
    "integrations",
    "internal",
    "logs",
    "management",
    "model",
    "observability",
    "policies",
    "settings",
];

/// The same for the calls by which servers of one's own are run: they load, put to sleep, reset, profile.
///
/// *Sources*: <https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html> and its routers `lora`, `dev/sleep`, `dev/cache`,
/// `dev/rpc`, `dev/rlhf`; <https://docs.sglang.ai/basic_usage/native_api.html>;
/// <https://github.com/ggml-org/llama.cpp/tree/master/tools/server> (`slots`, `props`, `lora-adapters`).
const SERVERS: &[&str] = &[
    "abortrequest",
    "abortrequests",
    "collectiverpc",
    "configurelogging",
    "faulttolerance",
    "flushcache",
    "freezegc",
    "getweightsbyname",
    "initweightsupdategroup",
    "initweighttransferengine",
    "loadloraadapter",
    "lora",
    "loraadapters",
    "loras",
    "pause",
    "props",
    "releasememoryoccupation",
    "resetencodercache",
    "resetmmcache",
    "resetprefixcache",
    "resume",
    "resumememoryoccupation",
    "scaleelasticep",
    "serverinfo",
    "setinternalstate",
    "sleep",
    "slots",
    "slowdown",
    "startprofile",
    "stopprofile",
    "unloadloraadapter",
    "updateweights",
    "updateweightsfromdisk",
    "updateweightsfromdistributed",
    "updateweightsfromtensor",
    "wakeup",
];

/// Two segments, one behind the other.
///
/// *Sources*: <https://platform.openai.com/docs/api-reference/chatkit/sessions>; servers of MCP with their credentials of
/// <https://docs.litellm.ai/docs/mcp>.
const PAIRS: &[(&str, &str)] = &[("chatkit", "sessions"), ("mcp", "server")];

/// Whether a path, decoded and in small letters, leads past Marg.
///
/// *Cost*: one walk over a short path and one allocation; for what passes through.
pub(super) fn leads_past(plain: &str) -> bool {
    let is_word = |character: &char| character.is_alphanumeric() || matches!(character, '/' | ':' | '.');
    let words: String = plain.chars().filter(is_word).collect();
    let mut before = "";
    let found = words.trim_start_matches('/').split('/').any(|segment| {
        // Behind these stand a verb (`keys:rotate`) and a format (`keys.json`).
        let segment = segment.split([':', '.']).next().unwrap_or_default();
        let first = begins_a_path(before) && (FIRST.contains(&segment) || SERVERS.contains(&segment));
        let pair = PAIRS.contains(&(before, segment));
        before = segment;
        first || pair || ANYWHERE.contains(&segment)
    });
    // What is asked for is a token, or tokens; deeper they could be counted.
    found || matches!(before, "token" | "tokens")
}

/// Whether what follows a segment is where a path begins for the provider: behind nothing, or behind a version and its like, as a
/// base URL need not end in one.
fn begins_a_path(before: &str) -> bool {
    let version = before.strip_prefix('v').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    version || matches!(before, "" | "api" | "openai" | "management")
}

#[cfg(test)]
mod tests {
    use crate::dialect::place;
    use crate::error::Kind;

    #[track_caller]
    fn is_refused(path: &str) {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] {
            let error = place(method, path).expect_err(path);
            assert_eq!(error.kind(), Kind::PermissionDenied, "{method} {path}: {error}");
        }
    }

    #[test]
    fn sessions_past_the_gateway_are_refused_however_they_are_written() {
        for path in [
            "/v1/realtime",
            "/v1/realtime/calls",
            "/v1/realtime/client_secrets",
            "/v1/realtime/client_secrets/",
            "/v1/Realtime/sessions",
            "/v1/%72ealtime/sessions",
            "/v1/realtime/transcription_sessions",
            "/v1/openai/v1/realtime/client_secrets",
            "/v1/live",
            "/v1/live/sessions",
            "/v1/openai/v1/live/sessions/s",
            "/v1/chatkit/sessions",
            "/v1/chatkit/sessions%20",
            "/v1/v1beta/authTokens",
        ] {
            is_refused(path);
        }
    }

    #[test]
    fn credentials_of_the_provider_are_refused_however_they_are_written() {
        for path in [
            "/v1/auth/keys/code",
            "/v1/auth/keys",
            "/v1/keys",
            "/v1/keys/",
            "/v1/keys/0123abcd",
            "/v1/key",
            "/v1/Keys",
            "/v1/%6beys",
            "/v1/%256beys",
            "/v1/keys%20",
            "/v1/keys%2e",
            "/v1/keys.json",
            "/v1/keys:create",
            "/v1/%E2%84%AAeys",
            "/v1/key/generate",
            "/v1/key/service-account/generate",
            "/v1/v2/key/info",
            "/v1/api/v1/keys",
            "/v1/openai/v1/key/generate",
            "/v1/credentials",
            "/v1/byok",
            "/v1/accounts/a/users/u/apiKeys",
            "/v1/accounts/a/secrets",
            "/v1/api-keys",
            "/v1/api_keys",
            "/v1/ap%69-keys",
            "/v1/admin/api-keys",
            "/v1/virtual-keys",
            "/v1/scoped-jwt",
            "/v1/oauth/token",
            "/v1/token",
            "/v1/streaming/token",
            "/v1/vaults/v/credentials",
            "/v1/organization/admin_api_keys",
            "/v1/organization/projects/p/api_keys",
            "/v1/organization/projects/p/service_accounts",
            "/v1/organizations/api_keys/k",
        ] {
            is_refused(path);
        }
    }

    #[test]
    fn accounts_and_servers_are_administered_past_the_gateway_only() {
        for path in [
            "/v1/organization/costs",
            "/v1/organization/users",
            "/v1/organizations/me",
            "/v1/organizations/usage_report/messages",
            "/v1/user/new",
            "/v1/team/member_add",
            "/v1/model/new",
            "/v1/model/info",
            "/v1/budget/new",
            "/v1/customer/new",
            "/v1/global/spend/reset",
            "/v1/config/update",
            "/v1/cache/flushall",
            "/v1/mcp/server",
            "/v1/credits",
            "/v1/credits/coinbase",
            "/v1/guardrails",
            "/v1/workspaces/w/budgets/daily",
            "/v1/users/me/balance",
            "/v1/user/balance",
            "/v1/dashboard/billing/credit_grants",
            "/v1/accounts/a/models",
            "/v1/load_lora_adapter",
            "/v1/unload_lora_adapter",
            "/v1/sleep",
            "/v1/wake_up",
            "/v1/collective_rpc",
            "/v1/reset_prefix_cache",
            "/v1/flush_cache",
            "/v1/update_weights_from_disk",
            "/v1/internal/model/load",
            "/v1/lora/load",
            "/v1/slots/0",
        ] {
            is_refused(path);
        }
    }

    #[test]
    fn what_applications_use_is_let_through() {
        for path in [
            "/v1/files",
            "/v1/files/keys",
            "/v1/files/f/content",
            "/v1/uploads/u/parts",
            "/v1/batches",
            "/v1/messages/batches",
            "/v1/messages",
            "/v1/messages/count_tokens",
            "/v1/responses/input_tokens",
            "/v1/vector_stores/v/search",
            "/v1/assistants",
            "/v1/threads/t/runs/r/submit_tool_outputs",
            "/v1/conversations/c/items",
            "/v1/containers/c/files",
            "/v1/fine_tuning/jobs/j/pause",
            "/v1/fine_tuning/jobs/j/resume",
            "/v1/fine_tuning/checkpoints/c/permissions",
            "/v1/evals/e/runs",
            "/v1/videos/v/content",
            "/v1/generation",
            "/v1/endpoints/zdr",
            "/v1/providers",
            "/v1/fim/completions",
            "/v1/agents/completions",
            "/v1/ocr",
            "/v1/tokenize",
            "/v1/tokens/count",
            "/v1/score",
            "/v1/classify",
            "/v1/search",
            "/v1/skills/keys",
            "/v1/prompts/user",
        ] {
            assert!(place("POST", path).is_ok(), "{path}");
        }
        assert!(place("DELETE", "/v1/models/keys").is_ok());
    }
}
