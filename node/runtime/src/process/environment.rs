//! A pure core: the environment of a worker, all of it. Nothing of the node's own reaches it.

use std::collections::BTreeMap;
use std::path::Path;

use super::program::{Language, Program};

/// Where programs are looked for, beside the interpreter's own folder.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// Regions and keys that libraries insist on; they are good nowhere.
const NOWHERE: [(&str, &str); 5] = [
    ("AWS_REGION", "us-east-1"),
    ("AWS_DEFAULT_REGION", "us-east-1"),
    ("AWS_ACCESS_KEY_ID", "millrace"),
    ("AWS_SECRET_ACCESS_KEY", "millrace"),
    ("AWS_SESSION_TOKEN", "millrace"),
];

/// What an environment is made from.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) function: &'a str,
    pub(crate) revision: &'a str,
    pub(crate) handler: &'a str,
    pub(crate) memory_bytes: u64,
    pub(crate) package: &'a Path,
    pub(crate) runtime: &'a Path,
    pub(crate) scratch: &'a Path,
    pub(crate) program: &'a Program,
    /// What the manifest says.
    pub(crate) own: &'a BTreeMap<String, String>,
    /// Tells one instance's log from another's.
    pub(crate) instance: u64,
}

/// The variables, sorted. What a manifest says never replaces what the Runtime API reserves.
pub(crate) fn environment(facts: &Facts<'_>) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let version = &facts.program.version;
    let minor: Vec<&str> = version.split('.').take(2).collect();
    let execution = match facts.program.language {
        Language::Python(_) => format!("AWS_Lambda_python{}", minor.join(".")),
        Language::Node(_) => format!("AWS_Lambda_nodejs{}.x", minor.first().unwrap_or(&"")),
        Language::Provided => "AWS_Lambda_provided".to_owned(),
    };
    let interpreter = facts.program.path.parent().filter(|it| !it.as_os_str().is_empty());
    let path = interpreter.map_or_else(|| PATH.to_owned(), |it| format!("{}:{PATH}", it.display()));
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let scratch = text(facts.scratch);
    // Defaults: a manifest may say otherwise.
    for (name, value) in [
        ("PATH", path.as_str()),
        ("LANG", "en_US.UTF-8"),
        ("TZ", ":UTC"),
        ("HOME", scratch.as_str()),
        ("TMPDIR", scratch.as_str()),
        ("PYTHONUNBUFFERED", "1"),
    ]
    .into_iter()
    .chain(NOWHERE)
    {
        all.insert(name.to_owned(), value.to_owned());
    }
    let own = facts.own.iter().filter(|(name, _)| !name.starts_with('_'));
    all.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", facts.function.to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", facts.revision.to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", (facts.memory_bytes >> 20).max(1).to_string()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", facts.function)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", format!("{}/{:016x}", facts.revision, facts.instance)),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_FORMAT", "Text".to_owned()),
        ("AWS_EXECUTION_ENV", execution),
        ("LAMBDA_TASK_ROOT", text(facts.package)),
        ("LAMBDA_RUNTIME_DIR", text(facts.runtime)),
        ("_HANDLER", facts.handler.to_owned()),
    ] {
        all.insert(name.to_owned(), value);
    }
    // Their mere presence changes what clients do.
    all.remove("AWS_LAMBDA_MAX_CONCURRENCY");
    all.remove("AWS_LAMBDA_RUNTIME_API");
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_adds_but_does_not_replace_what_is_reserved() {
        let own =
            [("LIMIT", "30"), ("_HANDLER", "x"), ("AWS_LAMBDA_RUNTIME_API", "x"), ("TZ", "x")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        let program = Program {
            language: Language::Python(None),
            path: "/opt/py/bin/python3".into(),
            version: "3.11.7".to_owned(),
        };
        let all = environment(&Facts {
            function: "tidy",
            revision: "0123",
            handler: "a/b.f",
            memory_bytes: 128 << 20,
            package: Path::new("/p"),
            runtime: Path::new("/r"),
            scratch: Path::new("/s"),
            program: &program,
            own: &own,
            instance: 1,
        });
        let get = |name: &str| all.iter().find(|(it, _)| it == name).map(|(_, it)| it.as_str());
        assert_eq!(get("LIMIT"), Some("30"));
        assert_eq!(get("TZ"), Some("x"));
        assert_eq!(get("_HANDLER"), Some("a/b.f"));
        assert_eq!(get("AWS_LAMBDA_RUNTIME_API"), None);
        assert_eq!(get("AWS_EXECUTION_ENV"), Some("AWS_Lambda_python3.11"));
        assert_eq!(get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"), Some("128"));
        assert!(get("PATH").unwrap().starts_with("/opt/py/bin:/usr/local/bin:"));
        assert!(all.is_sorted());
    }
}
