//! What this program was built from; `build.rs` finds it out.

use serde::Serialize;

/// The build: version, commit, compiler and main dependencies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Build {
    /// The version of Marg, such as `0.1.0`.
    pub version: &'static str,
    /// The commit, 40 hexadecimal digits, or `unknown`.
    pub commit: &'static str,
    /// The compiler, as it names itself.
    pub rustc: &'static str,
    /// The platform that it was built for, such as `x86_64-unknown-linux-gnu`.
    pub target: &'static str,
    /// The main dependencies in alphabetical order.
    pub dependencies: Vec<Dependency>,
}

/// One dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Dependency {
    /// Its name on crates.io.
    pub name: &'static str,
    /// Its exact version.
    pub version: &'static str,
}

/// The version of Marg, such as `0.1.0`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What this program was built from.
pub fn build() -> Build {
    let pairs = env!("MARG_DEPENDENCIES").split(',').filter_map(|pair| pair.split_once(' '));
    Build {
        version: VERSION,
        commit: env!("MARG_COMMIT"),
        rustc: env!("MARG_RUSTC"),
        target: env!("MARG_TARGET"),
        dependencies: pairs.map(|(name, version)| Dependency { name, version }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_names_its_proxy_and_its_compiler() {
        let build = build();
        assert!(build.rustc.starts_with("rustc "), "{}", build.rustc);
        let proxy = build.dependencies.iter().find(|dependency| dependency.name == "pingora-proxy");
        assert!(proxy.is_some_and(|proxy| !proxy.version.is_empty()));
    }
}
