//! PEM files (RFC 7468): whether they hold what they should, so that a wrong file is refused at load and not at the first
//! handshake. A certificate must be one (RFC 5280); whether its names, dates and signatures are good is for those who connect.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Checks that a file holds at least one certificate, and that all of them can be read.
///
/// # Errors
/// A sentence that says what the file lacks.
pub(super) fn certificates(text: &str) -> Result<(), String> {
    let mut count = 0;
    for (_, der) in blocks(text)?.iter().filter(|(label, _)| *label == "CERTIFICATE") {
        count += 1;
        X509Certificate::from_der(der).map_err(|_| format!("certificate {count} of the file cannot be read"))?;
    }
    if count > 0 {
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
    if blocks.iter().any(|(label, _)| matches!(*label, "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY")) {
        return Ok(());
    }
    Err("the file holds no private key; PEM begins with -----BEGIN PRIVATE KEY-----".to_owned())
}

/// A certificate chain and its private key, as a TLS server shows them. Both texts have passed the checks above.
///
/// # Errors
/// A sentence about the private key, which also says so if the certificate is another key's.
pub(super) fn identity(certificates: &str, key: &str) -> Result<Arc<CertifiedKey>, String> {
    const UNUSABLE: &str = "TLS cannot use this private key; it takes RSA of 2048 to 4096 bits, ECDSA over P-256 or P-384, and \
                            Ed25519";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("server.tls.certificate cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| UNUSABLE.to_owned())?;
    match CertifiedKey::from_der(chain, key, &default_provider()) {
        Ok(identity) => Ok(Arc::new(identity)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("this is not the private key of the first certificate in server.tls.certificate".to_owned())
        }
        Err(rustls::Error::General(_)) => Err(UNUSABLE.to_owned()),
        Err(error) => Err(format!("TLS cannot use this private key with server.tls.certificate: {error}")),
    }
}

/// The blocks of a file, each being complete: the label and what is in it.
fn blocks(text: &str) -> Result<Vec<(&str, Vec<u8>)>, String> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            open = Some((label, String::new()));
        } else if let Some(label) = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) {
            match open.take() {
                Some((begun, body)) if begun == label => blocks.push((label, content(label, &body)?)),
                _ => return Err(damaged(label)),
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
        None => Ok(blocks),
    }
}

fn content(label: &str, body: &str) -> Result<Vec<u8>, String> {
    let bytes = data_encoding::BASE64.decode(body.as_bytes()).ok().filter(|bytes| bytes.len() > 2);
    bytes.ok_or_else(|| damaged(label))
}

fn damaged(label: &str) -> String {
    format!("the PEM block {label:?} is damaged")
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

    const CERTIFICATE: &str = include_str!("../../tests/tls/localhost.pem");
    const KEY: &str = include_str!("../../tests/tls/localhost.key");

    #[test]
    fn a_certificate_that_is_none_is_refused() {
        let text = "-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n";
        assert!(certificates(text).unwrap_err().contains("certificate 1 of the file cannot be read"));
        assert!(certificates(&format!("{CERTIFICATE}{text}")).unwrap_err().contains("certificate 2"));
    }

    #[test]
    fn a_key_that_tls_cannot_use_or_of_another_certificate_is_refused() {
        let fault = |key: &str| identity(CERTIFICATE, key).unwrap_err();
        assert!(fault(include_str!("../../tests/tls/other.key")).contains("not the private key of the first"));
        assert!(fault(include_str!("../../tests/tls/p521.key")).contains("it takes RSA"));
        assert!(fault("-----BEGIN PRIVATE KEY-----\nMIIBAAAA\n-----END PRIVATE KEY-----\n").contains("it takes RSA"));
        let cut = CERTIFICATE.replace("MIIBZDCC", "MIIBZDCD");
        assert!(identity(&cut, KEY).unwrap_err().contains("with server.tls.certificate"));
    }

    #[test]
    fn a_good_file_is_accepted() {
        let text = format!("notes\n{}", CERTIFICATE.replace('\n', "\r\n"));
        assert_eq!(certificates(&text), Ok(()));
        let key = "-----BEGIN EC PRIVATE KEY-----\nMIIBAAAA\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(private_key(key), Ok(()));
        let identity = identity(&text, KEY).unwrap();
        assert_eq!(identity.cert.len(), 1);
    }
}
