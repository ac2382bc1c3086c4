//! Descriptors: how many this process may have open, and how many of them are for callers.
//!
//! A connection that says nothing takes a descriptor for as long as `server.keepalive_ms`, and needs no key. What the process
//! itself opens is therefore set aside, and the rest shared: a third for callers, a third for the connections to providers
//! that their calls need, a third for such connections that wait for the next call. So callers cannot take what the log, the
//! journal, the database and the operators need, and a call that is taken finds a connection to its provider.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin::service::CONNECTIONS;
use crate::config::Config;

/// What the process opens besides connections: the log, the listeners, the queues of its runtimes, the files of journal, audit
/// log and SQLite. About 60 are open at rest.
const FILES: u64 = 160;

/// What the descriptors are shared out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The most connections of callers.
    pub callers: usize,
    /// The most idle connections to providers.
    pub idle: usize,
}

/// Raises the soft limit to the hard one, as far as the system lets it.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!(%error, "the soft limit of descriptors cannot be raised");
    }
}

/// Shares out what the limit in force allows, and warns if that is less than is configured.
pub fn share(config: &Config) -> Share {
    let limit = getrlimit(Resource::Nofile).current;
    let share = of(limit, config);
    let wanted = config.server.max_connections;
    if share.callers < wanted {
        tracing::warn!(
            descriptors = limit,
            "callers get {} connections instead of the {wanted} of server.max_connections: the limit of descriptors \
             (ulimit -Hn) allows no more",
            share.callers
        );
    }
    share
}

fn of(limit: Option<u64>, config: &Config) -> Share {
    let most = config.server.max_connections;
    let Some(limit) = limit else { return Share { callers: most, idle: usize::MAX } };
    let own = FILES + CONNECTIONS as u64 + u64::from(config.database.connections);
    // Even where there are too few for everything, callers get a part.
    let third = (limit - own.min(limit / 2)) / 3;
    let third = usize::try_from(third).unwrap_or(usize::MAX);
    Share { callers: most.min(third).max(1), idle: third }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(limit: Option<u64>, most: usize) -> usize {
        let mut config = Config::default();
        config.server.max_connections = most;
        of(limit, &config).callers
    }

    #[test]
    fn callers_get_no_more_than_what_is_left_for_them() {
        // 424 are set aside: 160 files, 256 operators, 8 connections to the database.
        for (limit, share) in [(1_024, 200), (4_096, 1_224), (60_424, 20_000), (0, 1), (5, 1), (256, 42)] {
            assert_eq!(callers(Some(limit), 20_000), share, "{limit}");
        }
        assert_eq!(callers(Some(1_024), 50), 50);
        assert_eq!(callers(None, 20_000), 20_000);
        let config = Config::default();
        assert_eq!(of(Some(1_024), &config).idle, 200);
        assert!(of(Some(1_048_576), &config) == Share { callers: 20_000, idle: 349_384 });
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        raise();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
    }
}
