//! The preset table: what is known of each provider that speaks OpenAI's wire, one row each.
//!
//! A preset saves the operator from looking up a base URL; everything in it can be overridden in the configuration, and a
//! provider without a row needs nothing but a `base_url`. Providers of other wires are not here. `docs/configuration.md`
//! lists the same rows; a test compares them.

use crate::dialect::CeilingField;
use crate::provider::config::Auth;

/// A row of the table, by its name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset(&'static Row);

/// What is known of a provider.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The name in the configuration.
    pub name: &'static str,
    /// Other names that are understood in the configuration.
    pub aliases: &'static [&'static str],
    /// The URL that paths such as `/chat/completions` are appended to.
    pub base_url: BaseUrl,
    /// How its credential is sent.
    pub auth: Auth,
    /// The environment variable that usually holds its key; `marg demo` looks there. None for servers of one's own, which
    /// need no credential.
    pub key_variable: Option<&'static str>,
    /// Its id in the price list `genai-prices`, if it is there.
    pub price_provider: Option<&'static str>,
    /// Whether `stream_options.include_usage` is added to a streamed request, so that the usage is reported. Not where
    /// the field is refused, nor where the usage comes without being asked for.
    pub stream_usage: bool,
    /// The field of a chat request that bounds its output, where Marg must set one.
    pub ceiling: CeilingField,
    /// The vendor page that says so.
    pub source: &'static str,
}

/// Where a preset's provider is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUrl {
    /// At the same place for everybody.
    Known(&'static str),
    /// At a place of one's own, which the configuration must give; this is its form.
    Given(&'static str),
}

/// What the rows have in common; each names what is its own.
const COMMON: Row = Row {
    name: "",
    aliases: &[],
    base_url: BaseUrl::Given(""),
    auth: Auth::Bearer,
    key_variable: None,
    price_provider: None,
    stream_usage: true,
    ceiling: CeilingField::MaxTokens,
    source: "",
};

/// Every preset, in the order in which `marg demo` prefers them as default provider.
pub const TABLE: &[Row] = &[
    Row {
        name: "openai",
        base_url: BaseUrl::Known("https://api.openai.com/v1"),
        key_variable: Some("OPENAI_API_KEY"),
        price_provider: Some("openai"),
        ceiling: CeilingField::MaxCompletionTokens,
        source: "https://platform.openai.com/docs/api-reference",
        ..COMMON
    },
    Row {
        name: "openrouter",
        base_url: BaseUrl::Known("https://openrouter.ai/api/v1"),
        key_variable: Some("OPENROUTER_API_KEY"),
        price_provider: Some("openrouter"),
        // The field is deprecated and without effect: the usage always comes.
        stream_usage: false,
        source: "https://openrouter.ai/docs/client-sdks/typescript/models/chatstreamoptions",
        ..COMMON
    },
    Row {
        name: "groq",
        base_url: BaseUrl::Known("https://api.groq.com/openai/v1"),
        key_variable: Some("GROQ_API_KEY"),
        price_provider: Some("groq"),
        ceiling: CeilingField::MaxCompletionTokens,
        source: "https://console.groq.com/docs/openai",
        ..COMMON
    },
    Row {
        name: "cerebras",
        base_url: BaseUrl::Known("https://api.cerebras.ai/v1"),
        key_variable: Some("CEREBRAS_API_KEY"),
        price_provider: Some("cerebras"),
        // Streams with the field have been answered with 422.
        stream_usage: false,
        ceiling: CeilingField::MaxCompletionTokens,
        source: "https://inference-docs.cerebras.ai/resources/openai",
        ..COMMON
    },
    Row {
        name: "together",
        aliases: &["together-ai"],
        base_url: BaseUrl::Known("https://api.together.xyz/v1"),
        key_variable: Some("TOGETHER_API_KEY"),
        price_provider: Some("together"),
        // The usage comes in the last chunk.
        stream_usage: false,
        source: "https://docs.together.ai/docs/openai-api-compatibility",
        ..COMMON
    },
    Row {
        name: "fireworks",
        aliases: &["fireworks-ai"],
        base_url: BaseUrl::Known("https://api.fireworks.ai/inference/v1"),
        key_variable: Some("FIREWORKS_API_KEY"),
        price_provider: Some("fireworks"),
        // The usage comes in the last chunk.
        stream_usage: false,
        source: "https://docs.fireworks.ai/tools-sdks/openai-compatibility",
        ..COMMON
    },
    Row {
        name: "deepseek",
        base_url: BaseUrl::Known("https://api.deepseek.com"),
        key_variable: Some("DEEPSEEK_API_KEY"),
        price_provider: Some("deepseek"),
        source: "https://api-docs.deepseek.com/",
        ..COMMON
    },
    Row {
        name: "mistral",
        base_url: BaseUrl::Known("https://api.mistral.ai/v1"),
        key_variable: Some("MISTRAL_API_KEY"),
        price_provider: Some("mistral"),
        // Fields that it does not know are answered with 422; the usage comes in the last chunk.
        stream_usage: false,
        source: "https://docs.mistral.ai/api/",
        ..COMMON
    },
    Row {
        name: "xai",
        aliases: &["x-ai", "grok"],
        base_url: BaseUrl::Known("https://api.x.ai/v1"),
        key_variable: Some("XAI_API_KEY"),
        price_provider: Some("x-ai"),
        ceiling: CeilingField::MaxCompletionTokens,
        source: "https://docs.x.ai/api",
        ..COMMON
    },
    Row {
        name: "perplexity",
        base_url: BaseUrl::Known("https://api.perplexity.ai"),
        key_variable: Some("PERPLEXITY_API_KEY"),
        price_provider: Some("perplexity"),
        // Every chunk carries the usage so far.
        stream_usage: false,
        source: "https://docs.perplexity.ai/docs/grounded-llm/openai-compatibility",
        ..COMMON
    },
    Row {
        name: "nvidia",
        aliases: &["nvidia-nim", "nim"],
        base_url: BaseUrl::Known("https://integrate.api.nvidia.com/v1"),
        key_variable: Some("NVIDIA_API_KEY"),
        source: "https://docs.api.nvidia.com/nim/reference/llm-apis",
        ..COMMON
    },
    Row {
        name: "sambanova",
        base_url: BaseUrl::Known("https://api.sambanova.ai/v1"),
        key_variable: Some("SAMBANOVA_API_KEY"),
        source: "https://docs.sambanova.ai/docs/en/features/openai-compatibility",
        ..COMMON
    },
    Row {
        name: "moonshot",
        aliases: &["moonshotai", "kimi"],
        base_url: BaseUrl::Known("https://api.moonshot.ai/v1"),
        key_variable: Some("MOONSHOT_API_KEY"),
        price_provider: Some("moonshotai"),
        source: "https://platform.kimi.ai/docs/api/quickstart",
        ..COMMON
    },
    Row {
        name: "novita",
        aliases: &["novita-ai"],
        base_url: BaseUrl::Known("https://api.novita.ai/openai/v1"),
        key_variable: Some("NOVITA_API_KEY"),
        price_provider: Some("novita"),
        source: "https://novita.ai/docs/guides/llm-api",
        ..COMMON
    },
    Row {
        name: "deepinfra",
        base_url: BaseUrl::Known("https://api.deepinfra.com/v1/openai"),
        key_variable: Some("DEEPINFRA_API_KEY"),
        source: "https://deepinfra.com/docs/advanced/openai_api",
        ..COMMON
    },
    Row {
        name: "huggingface",
        aliases: &["hugging-face", "hf"],
        base_url: BaseUrl::Known("https://router.huggingface.co/v1"),
        key_variable: Some("HF_TOKEN"),
        source: "https://huggingface.co/docs/inference-providers/index",
        ..COMMON
    },
    Row {
        name: "dashscope",
        aliases: &["qwen", "alibaba"],
        // Singapore; other regions and workspaces of one's own have other hosts.
        base_url: BaseUrl::Known("https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
        key_variable: Some("DASHSCOPE_API_KEY"),
        source: "https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope",
        ..COMMON
    },
    Row {
        name: "ai21",
        base_url: BaseUrl::Known("https://api.ai21.com/studio/v1"),
        key_variable: Some("AI21_API_KEY"),
        // The usage comes in the last chunk.
        stream_usage: false,
        source: "https://docs.ai21.com/reference/jamba-1-6-api-ref",
        ..COMMON
    },
    Row {
        name: "ollama-cloud",
        base_url: BaseUrl::Known("https://ollama.com/v1"),
        key_variable: Some("OLLAMA_API_KEY"),
        source: "https://docs.ollama.com/api/openai-compatibility",
        ..COMMON
    },
    Row {
        name: "cloudflare",
        aliases: &["workers-ai"],
        base_url: BaseUrl::Given("https://api.cloudflare.com/client/v4/accounts/ACCOUNT/ai/v1"),
        key_variable: Some("CLOUDFLARE_API_KEY"),
        price_provider: Some("cloudflare"),
        // The usage comes in the last chunk.
        stream_usage: false,
        source: "https://developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility",
        ..COMMON
    },
    Row {
        name: "databricks",
        base_url: BaseUrl::Given("https://WORKSPACE.cloud.databricks.com/serving-endpoints"),
        key_variable: Some("DATABRICKS_TOKEN"),
        price_provider: Some("databricks"),
        // Some of the models behind it refuse the field with 400.
        stream_usage: false,
        source: "https://docs.databricks.com/aws/machine-learning/foundation-model-apis/api-reference",
        ..COMMON
    },
    Row {
        name: "ollama",
        base_url: BaseUrl::Known("http://localhost:11434/v1"),
        source: "https://docs.ollama.com/api/openai-compatibility",
        ..COMMON
    },
    Row {
        name: "vllm",
        base_url: BaseUrl::Known("http://localhost:8000/v1"),
        source: "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
        ..COMMON
    },
    Row {
        name: "lmstudio",
        aliases: &["lm-studio"],
        base_url: BaseUrl::Known("http://localhost:1234/v1"),
        source: "https://lmstudio.ai/docs/api/openai-api",
        ..COMMON
    },
    Row {
        name: "llamacpp",
        aliases: &["llama.cpp", "llama-cpp"],
        base_url: BaseUrl::Known("http://localhost:8080/v1"),
        source: "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        ..COMMON
    },
    Row {
        name: "localai",
        aliases: &["local-ai"],
        base_url: BaseUrl::Known("http://localhost:8080/v1"),
        source: "https://localai.io/docs/overview/",
        ..COMMON
    },
];

impl Preset {
    /// The row.
    pub fn row(self) -> &'static Row {
        self.0
    }

    /// Whether its provider is at the same place for everybody, so that the configuration need not say where.
    /// The preset of a name or alias.
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name || row.aliases.contains(&name)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_no_preset() {
        assert_eq!(Preset::named(""), None);
        assert_eq!(Preset::named("OpenAI"), None);
        assert_eq!(Preset::named("qwen"), Preset::named("dashscope"));
    }

    #[test]
    fn no_name_and_no_variable_is_there_twice() {
        let mut names: Vec<&str> = TABLE.iter().flat_map(|row| row.aliases.iter().copied().chain([row.name])).collect();
        // One variable for two presets would make two providers of one key.
        let mut variables: Vec<&str> = TABLE.iter().filter_map(|row| row.key_variable).collect();
        for list in [&mut names, &mut variables] {
            let count = list.len();
            list.sort_unstable();
            list.dedup();
            assert_eq!(list.len(), count, "{list:?}");
        }
    }

    #[test]
    fn every_row_is_filled_in() {
        for row in TABLE {
            assert!(!row.name.is_empty() && row.source.starts_with("https://"), "{row:?}");
            let (BaseUrl::Known(url) | BaseUrl::Given(url)) = row.base_url;
            let local = row.key_variable.is_none();
            assert!(url.starts_with(if local { "http://localhost:" } else { "https://" }), "{row:?}");
            assert!(!url.ends_with('/'), "{row:?}");
        }
    }

    #[test]
    fn every_price_provider_is_in_the_price_list() {
        let listed: Vec<&str> = genai_prices::Calculator::bundled().providers().map(|provider| provider.id()).collect();
        for id in TABLE.iter().filter_map(|row| row.price_provider) {
            assert!(listed.contains(&id), "{id} is not among {listed:?}");
        }
    }
}
