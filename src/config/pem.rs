//! PEM files (RFC 7468): whether they hold what they should, so that a wrong file is refused at load and not at the first
//! handshake. Certificates are not judged here: rustls does that when it uses them.

/// Checks that a file holds at least one certificate.
///
/// # Errors
/// A sentence that says what the file lacks.
pub(super) fn certificates(text: &str) -> Result<(), String> {
    let blocks = blocks(text)?;
    if blocks.contains(&"CERTIFICATE") {
        return Ok(());
    }
    Err("the file holds no certificate; PEM begins with -----BEGIN CERTIFICATE-----".to_owned())
}

/// Checks that a file holds a private key that is not encrypted.
///
/// # Errors
/// A sentence that says what the file lacks.
pub(super) fn private_key(text: &str) -> Result<(), String> {
    let blocks = blocks(text)?;
    if text.contains("ENCRYPTED") {
        return Err("the private key is encrypted; a key without a passphrase is needed".to_owned());
    }
    if blocks.iter().any(|label| matches!(*label, "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY")) {
        return Ok(());
    }
    Err("the file holds no private key; PEM begins with -----BEGIN PRIVATE KEY-----".to_owned())
}

/// The labels of the blocks of a file, each block being complete.
fn blocks(text: &str) -> Result<Vec<&str>, String> {
    let mut labels = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            open = Some((label, String::new()));
        } else if let Some(label) = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) {
            match open.take() {
                Some((begun, body)) if begun == label && is_base64(&body) => labels.push(label),
                _ => return Err(format!("the PEM block {label:?} is damaged")),
            }
        } else if let Some((_, body)) = &mut open
            // Header lines such as `Proc-Type: 4,ENCRYPTED` (RFC 1421) are not part of the body.
            && !line.contains(':')
        {
            body.push_str(line);
        }
    }
    match open {
        Some((label, _)) => Err(format!("the PEM block {label:?} has no end")),
        None => Ok(labels),
    }
}

/// Whether a text is base 64 of something.
fn is_base64(body: &str) -> bool {
    data_encoding::BASE64.decode(body.as_bytes()).is_ok_and(|bytes| bytes.len() > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_or_damaged_file_is_refused() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIIBAAAA\n-----END PRIVATE KEY-----\n";
        assert!(certificates("").unwrap_err().contains("no certificate"));
        assert!(certificates(key).unwrap_err().contains("no certificate"));
        assert!(certificates("-----BEGIN CERTIFICATE-----\nMIIB").unwrap_err().contains("no end"));
        assert!(
            certificates("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----").unwrap_err().contains("damaged")
        );
        assert!(private_key("x").unwrap_err().contains("no private key"));
        assert!(private_key(&key.replace("PRIVATE", "ENCRYPTED PRIVATE")).unwrap_err().contains("encrypted"));
        assert!(private_key(&key.replace("END PRIVATE", "END RSA PRIVATE")).unwrap_err().contains("damaged"));
    }

    #[test]
    fn a_good_file_is_accepted() {
        let text = "notes\n-----BEGIN CERTIFICATE-----\r\nMIIB\r\nAAAA\r\n-----END CERTIFICATE-----\r\n";
        assert_eq!(certificates(text), Ok(()));
        let key = "-----BEGIN EC PRIVATE KEY-----\nMIIBAAAA\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(private_key(key), Ok(()));
    }
}
