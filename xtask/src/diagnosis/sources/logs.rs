//! What a crashing container's log says last.

use run_record::Code;

use super::table::{Row, harmless, row};

/// The last words of a crashed container. Most rows are about dependencies that may still come up.
pub(super) const LOG: &[Row] = &[
    harmless(&[&["terminating connection due to administrator command"]]),
    row(Code::ImagePlatform, &[&["exec format error"]]),
    // Limits of the machine's kernel, in the words of a full disk.
    row(
        Code::NodeRuntime,
        &[
            &["system limit for number of file watchers"],
            &["failed to watch", "no space left"],
            &["inotify", "no space left"],
            &["inotify", "too many open files"],
            &["inotify", "limit"],
            &["fsnotify watcher", "too many open files"],
        ],
    ),
    row(Code::DiskFull, &[&["no space left on device"], &["enospc"], &["disk full"]]),
    row(
        Code::ConfigMissing,
        &[
            &["no pg_hba.conf entry"],
            &["password authentication failed"],
            &["superuser password is not specified"],
            &["you must specify postgres_password"],
        ],
    ),
    row(
        Code::DependencyUnreachable,
        &[
            // Something else creates a database's schema, possibly right now.
            &["schema version", "mismatch"],
            &["schema version compatibility check failed"],
            &["unable to read db schema version"],
            &["relation \"", "does not exist"],
            &["no such table"],
            &["unknown database"],
            &["database \"", "does not exist"],
            &["connection to ", " refused"],
        ],
    ),
    row(Code::LayerMissing, &[&["could not get clustersecretstore"]]),
    row(
        Code::ConfigMissing,
        &[
            &["password authentication failed"],
            &["access denied for user"],
            &["wrongpass"],
            &["invalid username-password pair"],
            &["sasl authentication failed"],
            &["authentication failed", "password"],
            &["no pg_hba.conf entry"],
            &["role \"", "does not exist"],
            &["login failed for user"],
            &["no password supplied"],
            &["flyway_url not set"],
            &["couldn't find key"],
            &["required environment variable"],
            &["missing required env"],
            &["environment variable", "not set"],
            &["environment variable", "required"],
            &["environment variable", "missing"],
            &["unbound variable"],
            &["parameter not set"],
            &["parameter null or not set"],
            &["the access key id you provided does not exist"],
            &["signaturedoesnotmatch"],
        ],
    ),
    row(
        Code::DependencyUnreachable,
        &[
            &["connection refused"],
            &["connection reset by peer"],
            &["connection timed out"],
            &["econnrefused"],
            &["econnreset"],
            &["enotfound"],
            &["eai_again"],
            &["etimedout"],
            &["ehostunreach"],
            &["no such host"],
            &["unknownhostexception"],
            &["connectexception"],
            &["communications link failure"],
            &["i/o timeout"],
            &["could not connect to"],
            &["could not translate host name"],
            &["could not resolve host"],
            &["can't connect to"],
            &["cannot connect to"],
            &["name or service not known"],
            &["temporary failure in name resolution"],
            &["nodename nor servname"],
            &["no route to host"],
            &["network is unreachable"],
            &["the database system is"],
            &["too many clients already"],
            &["remaining connection slots are reserved"],
            &["mongoserverselectionerror"],
            &["mongonetworkerror"],
            &["broker may not be available"],
            &["no brokers available"],
            &["all brokers are down"],
            &["failed to connect to"],
            &["unable to connect to"],
            &["connect timeout"],
            &["connect timed out"],
            &["operation timed out"],
            &["connection attempt failed"],
            &["couldn't connect to"],
            &["when trying to connect"],
            &["due to connection timeout"],
            &["acquisition timeout"],
            &["waiting for an open connection"],
            &["waiting for a server that matches"],
            &["selecting a server using"],
            &["can't reach database server"],
            &["host(s) tried for query failed"],
            &["no node was available to execute"],
            &["no resolvable bootstrap"],
            &["nobrokersavailable"],
            &["no servers available"],
            &["loading the dataset in memory"],
            &["server not initialized"],
            &["connection to server", "failed"],
            &["is the server running on"],
            &["503 service unavailable"],
            &["serverselectiontimeout"],
            &["no healthy upstream"],
        ],
    ),
];

/// `FLYWAY_URL not set`, `DATABASE_URL is required`: shells and programs alike.
pub(super) fn names_unset_variable(line: &str) -> bool {
    let words: Vec<&str> =
        line.split(|c: char| c.is_whitespace() || "\"'`:$,{}".contains(c)).filter(|w| !w.is_empty()).collect();
    let is_name = |word: &str| {
        word.contains('_')
            && word.len() > 3
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    words.iter().enumerate().any(|(at, word)| {
        let after = words[at + 1..].iter().take(4).map(|word| word.to_lowercase()).collect::<Vec<_>>().join(" ");
        let says = [
            "not set",
            "is not set",
            "is unset",
            "must be set",
            "is required",
            "not defined",
            "is missing",
            "not provided",
            "cannot be empty",
            "must not be empty",
            "is empty",
        ];
        is_name(word) && says.iter().any(|says| after.starts_with(says))
    })
}
