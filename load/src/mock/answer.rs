//! The whole answers of the mock, in the shapes of OpenAI's API reference (chat, embeddings, models; read 2026-08).

use bytes::Bytes;

/// The text of a plain answer, so that the whole is about 1 KB.
const TEXT: &str = "A gateway stands between applications and the providers of models. It knows who asks, what they may ask \
for and what it costs, and it keeps a record that can be believed afterwards.\\n\\nWhat matters most is that nobody notices \
it: the first word of an answer should come as early as without it, and a stream should flow as evenly. It spends a few \
dozen microseconds on each request, mostly on moving bytes from one socket to the other, and some on counting them.";

/// A chat completion of about 1 KB with usage.
pub fn chat(model: &str) -> Bytes {
    let model = quoted(model);
    Bytes::from(format!(
        "{{\"id\":\"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion\",\"created\":1741570283,\
         \"model\":{model},\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{TEXT}\",\
         \"refusal\":null,\"annotations\":[]}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":{USAGE},\
         \"service_tier\":\"default\",\"system_fingerprint\":\"fp_fc9f1d7035\"}}"
    ))
}

/// The usage of every answer.
pub const USAGE: &str = "{\"prompt_tokens\":225,\"completion_tokens\":96,\"total_tokens\":321,\
\"prompt_tokens_details\":{\"cached_tokens\":64,\"audio_tokens\":0},\
\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\
\"rejected_prediction_tokens\":0}}";

/// One vector of 256 numbers, about 3 KB.
pub fn embedding(model: &str) -> Bytes {
    let mut text = String::from("{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[");
    for index in 0..256u32 {
        let separator = if index == 0 { "" } else { "," };
        text.push_str(&format!("{separator}-0.{:07}", index * 37_199 % 9_999_991));
    }
    text.push_str("]}],\"model\":");
    text.push_str(&quoted(model));
    text.push_str(",\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}");
    Bytes::from(text)
}

/// A list with one model.
pub fn models() -> Bytes {
    Bytes::from_static(
        b"{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":1741570283,\"owned_by\":\"load\"}]}",
    )
}

/// A JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &Bytes) -> serde_json::Value {
        serde_json::from_slice(bytes).expect("valid JSON")
    }

    #[test]
    fn every_answer_is_json_and_names_the_model() {
        let model = "a \"quoted\" model";
        for answer in [chat(model), embedding(model)] {
            assert_eq!(parsed(&answer)["model"], model);
            assert!(parsed(&answer)["usage"]["total_tokens"].as_u64() > Some(0));
        }
        assert_eq!(parsed(&models())["data"][0]["id"], "mock");
    }

    #[test]
    fn a_chat_completion_is_about_a_kilobyte() {
        let length = chat("mock").len();
        assert!((950..1200).contains(&length), "{length}");
    }
}
