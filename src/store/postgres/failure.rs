//! What failures of PostgreSQL and of its driver mean, in words that hold nothing of what they were about.
//!
//! Codes: PostgreSQL's manual, appendix A. What only an operator can mend (the address, the rights, the files) is away like anything
//! else while a process runs, since records wait until it is mended; a start that meets it is refused instead of waiting.

use std::borrow::Cow;
use std::fmt;
use std::io;

use rustls::CertificateError;

use crate::error::StoreError;

/// What only an operator can mend.
#[derive(Debug)]
struct Misconfigured(String);

impl fmt::Display for Misconfigured {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Misconfigured {}

/// The database cannot be asked at present.
pub(super) fn away(why: impl Into<Cow<'static, str>>) -> StoreError {
    StoreError::Away(why.into().into_owned().into())
}

fn misconfigured(why: String) -> StoreError {
    StoreError::Away(Box::new(Misconfigured(why)))
}

/// The same failure at a start: what only an operator can mend is no outage.
pub(super) fn at_a_start(error: StoreError) -> StoreError {
    match error {
        StoreError::Away(cause) if cause.is::<Misconfigured>() => StoreError::Conflict(cause.to_string().into()),
        other => other,
    }
}

/// What a failure of the database means.
pub(super) fn failed(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(cause) => {
            let code = cause.code().unwrap_or_default().into_owned();
            match code.as_str() {
                // The row is at fault: data exceptions and violated constraints.
                code if code.starts_with("22") || code.starts_with("23") => {
                    let which = cause.constraint().map(|name| format!(" ({name})")).unwrap_or_default();
                    StoreError::Conflict(format!("the database refuses the row: SQLSTATE {code}{which}").into())
                }
                // The schema is not ours.
                "42P01" | "42703" | "42883" | "42804" => {
                    StoreError::Corrupt(format!("the schema is not the program's: SQLSTATE {code}").into())
                }
                code if code.starts_with("28") || matches!(code, "3D000" | "42501") => {
                    misconfigured(format!("{} (SQLSTATE {code})", meaning(code)))
                }
                code => away(format!("{} (SQLSTATE {code})", meaning(code))),
            }
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. } => StoreError::Corrupt("a row is not of the program's form".into()),
        sqlx::Error::PoolTimedOut => away("no connection in time"),
        sqlx::Error::PoolClosed => away("the store is closed"),
        sqlx::Error::Io(cause) => away(broken(&cause)),
        sqlx::Error::Tls(cause) => away(match cause.downcast_ref::<rustls::Error>() {
            Some(cause) => no_tls(cause),
            None => "TLS could not be agreed with the server; see sslmode, sslrootcert, sslcert and sslkey".to_owned(),
        }),
        sqlx::Error::Configuration(_) => misconfigured(
            "the connection's settings are not usable; see sslmode, sslcert and sslkey, which go together".to_owned(),
        ),
        _ => away("the connection broke"),
    }
}

/// What a broken connection says. The text of a cause may hold a host, so only its kind is told.
fn broken(cause: &io::Error) -> String {
    if let Some(cause) = cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        return no_tls(cause);
    }
    // What `getaddrinfo` says has no kind of its own.
    if cause.to_string().starts_with("failed to lookup address") {
        return "the name of its host cannot be resolved".to_owned();
    }
    match cause.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens at its address (connection refused)".to_owned(),
        kind => format!("the connection failed: {kind}"),
    }
}

/// Why TLS failed.
fn no_tls(cause: &rustls::Error) -> String {
    let why = match cause {
        rustls::Error::InvalidCertificate(cause) => match cause {
            CertificateError::UnknownIssuer => {
                "its certificate is of an authority that is not trusted; name the authority's file in sslrootcert"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another host; see sslmode and the host in the URL"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; see the clocks"
            }
            CertificateError::Revoked => "its certificate was revoked",
            _ => "its certificate cannot be verified; see sslmode and sslrootcert",
        },
        rustls::Error::AlertReceived(_) => "the server ended it; it may ask for a certificate: see sslcert and sslkey",
        _ => "TLS could not be agreed; see sslmode, sslrootcert, sslcert and sslkey",
    };
    format!("the server is not believed: {why}")
}

fn meaning(code: &str) -> &'static str {
    match code {
        "3D000" => "there is no such database",
        "42501" => "the user lacks a right",
        "53300" => "the server has no connection left",
        "53100" => "the server's disk is full",
        "57014" | "55P03" => "a statement took too long",
        "57P01" | "57P02" | "57P03" => "the server starts or stops",
        "25006" => "the server is read-only",
        "40001" | "40P01" => "another transaction was in the way",
        code if code.starts_with("28") => "the server refuses the user or the password",
        _ => "the server refuses",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_believed_is_told_apart_from_a_line_that_broke() {
        let of = |cause| failed(sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidData, cause))).to_string();
        let told = of(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(told.contains("an authority that is not trusted") && told.contains("sslrootcert"), "{told}");
        assert!(of(rustls::Error::InvalidCertificate(CertificateError::Expired)).contains("expired"));
        assert!(of(rustls::Error::DecryptError).contains("TLS could not be agreed"));
        let told = failed(sqlx::Error::Io(io::ErrorKind::ConnectionReset.into())).to_string();
        assert_eq!(told, "the database is away: the connection failed: connection reset");
    }

    #[test]
    fn what_only_an_operator_can_mend_is_no_outage_at_a_start() {
        let refused = || misconfigured("no".to_owned());
        assert!(matches!(refused(), StoreError::Away(_)), "records wait until it is mended");
        assert!(matches!(at_a_start(refused()), StoreError::Conflict(_)));
        assert!(matches!(at_a_start(away("no connection in time")), StoreError::Away(_)));
    }
}
