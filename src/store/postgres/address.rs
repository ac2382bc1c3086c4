//! The address of a database: what a URL may say, and that the files which it names can be used.

use std::path::Path;
use std::str::FromStr;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use super::super::Address;
use crate::error::StoreError;

/// The parameters that a URL may carry; the driver would log the value of any other.
const PARAMETERS: &[&str] =
    &["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "dbname", "user", "password", "application_name"];

/// Whether an address can be one of this backend, listening included.
pub(in crate::store) fn check(address: &Address) -> Result<(), StoreError> {
    let urls = [Some(&address.url), address.listen_url.as_ref()];
    urls.into_iter().flatten().try_for_each(|url| options(url.expose(), address.pooler).map(drop))
}

/// How to connect. Whatever the URL leaves out comes from the variables that PostgreSQL's own tools read (`PGHOST` and others).
pub(super) fn options(url: &str, pooler: bool) -> Result<PgConnectOptions, StoreError> {
    let parameters = url.split_once('?').map_or("", |(_, query)| query);
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !PARAMETERS.contains(&name) {
            let name: String = name.chars().take(32).filter(char::is_ascii_alphanumeric).collect();
            let text = format!("the database URL has the parameter {name:?}; known are {}", PARAMETERS.join(", "));
            return Err(StoreError::Conflict(text.into()));
        }
        check_file(name, &decoded(value)).map_err(|text| StoreError::Conflict(text.into()))?;
    }
    let unusable =
        || StoreError::Conflict("the database URL is malformed; write postgres://USER:PASSWORD@HOST:PORT/NAME".into());
    let options = PgConnectOptions::from_str(url).map_err(|_| unusable())?;
    let options = match url.contains("application_name=") {
        true => options,
        false => options.application_name("marg"),
    };
    // Calls on counters hold names in their text.
    let options = options.disable_statement_logging();
    // PgBouncer refuses a connection that names a setting which it does not know.
    Ok(if pooler { options.extra_float_digits(None).statement_cache_capacity(0) } else { options })
}

/// Whether the file of a parameter, if it names one, holds what it should. The driver finds that out at the first connection only,
/// and does not say of which file.
fn check_file(name: &str, value: &str) -> Result<(), String> {
    // The driver takes the text of a file in the place of its path, too.
    if !matches!(name, "sslrootcert" | "sslcert" | "sslkey") || value.trim_start().starts_with("-----BEGIN") {
        return Ok(());
    }
    let path = Path::new(value);
    let cannot = |error: &dyn std::fmt::Display| format!("{name} in the database URL: cannot read {value}: {error}");
    if !std::fs::metadata(path).map_err(|error| cannot(&error))?.is_file() {
        return Err(cannot(&"it is not a plain file"));
    }
    let text = std::fs::read(path).map_err(|error| cannot(&error))?;
    let is_good = match name {
        "sslkey" => PrivateKeyDer::from_pem_slice(&text).is_ok(),
        _ => {
            let mut certificates = CertificateDer::pem_slice_iter(&text).peekable();
            certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
        }
    };
    let what = if name == "sslkey" { "private key" } else { "certificate" };
    if is_good { Ok(()) } else { Err(format!("{name} in the database URL: {value} holds no {what} in PEM")) }
}

/// A value of a query as it was before it was written into a URL (`application/x-www-form-urlencoded`).
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, others @ ..] = rest {
        let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let coded = others.first().and_then(hex).zip(others.get(1).and_then(hex));
        let (byte, left) = match (first, coded) {
            (b'%', Some((high, low))) => (high * 16 + low, others.get(2..).unwrap_or_default()),
            (b'+', _) => (b' ', others),
            (byte, _) => (*byte, others),
        };
        bytes.push(byte);
        rest = left;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_parameter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b.pem");
        let written = path.display().to_string().replace(' ', "%20");
        let told = |parameter: &str| {
            options(&format!("postgres://u@h/d?{parameter}={written}"), false).err().map(|error| error.to_string())
        };
        let missing = told("sslrootcert").unwrap();
        assert!(missing.contains("sslrootcert") && missing.contains("a b.pem"), "{missing}");
        std::fs::write(&path, "nothing").unwrap();
        assert!(told("sslrootcert").unwrap().contains("holds no certificate"));
        assert!(told("sslkey").unwrap().contains("holds no private key"));
        std::fs::write(&path, include_bytes!("../../../tests/tls/localhost.pem")).unwrap();
        assert_eq!((told("sslrootcert"), told("sslcert")), (None, None));
        assert!(told("sslkey").is_some());
        std::fs::write(&path, include_bytes!("../../../tests/tls/localhost.key")).unwrap();
        assert_eq!(told("sslkey"), None);
    }

    #[test]
    fn a_value_is_read_as_it_was_before_it_was_written() {
        assert_eq!(decoded("%2Fa+b%2fc%zz%4"), "/a b/c%zz%4");
        assert_eq!(decoded("%C3%A9"), "é");
    }
}
