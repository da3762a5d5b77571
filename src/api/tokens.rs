//! Who may do what: a file of names, hashes and scopes, re-read when it changes.
//!
//! Tokens themselves are nowhere: the file holds their SHA-256, and what a request presents is hashed and compared in constant time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::problem::{Kind, Problem};
use crate::runtime::shutdown::Shutdown;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A larger file is no list of tokens.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Send pairs, create and change segments.
    PairsWrite,
    /// Count and list.
    CountsRead,
    /// See who is in a segment.
    UsersRead,
    /// Erase users.
    UsersErase,
    /// All of it, the jobs and the status.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [
        Self::PairsWrite,
        Self::CountsRead,
        Self::UsersRead,
        Self::UsersErase,
        Self::Admin,
    ];

    /// Its name in the file and in the OpenAPI document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PairsWrite => "pairs:write",
            Self::CountsRead => "counts:read",
            Self::UsersRead => "users:read",
            Self::UsersErase => "users:erase",
            Self::Admin => "admin",
        }
    }

    /// Whether it is open to all where there are no tokens.
    fn is_open(self) -> bool {
        matches!(self, Self::PairsWrite | Self::CountsRead)
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or(())
    }
}

/// Why a file is no list of tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It could not be read.
    #[error("the tokens file {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// What it holds is no list of tokens.
    #[error("the tokens file {} {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    scopes: Vec<String>,
}

#[derive(Debug)]
struct Token {
    hash: [u8; 32],
    scopes: BTreeSet<Scope>,
}

#[derive(Debug)]
enum Access {
    /// There are no tokens.
    Open,
    /// Only these.
    Only(Vec<Token>),
}

/// Who may do what, now. Clones share it.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<ArcSwap<Access>>);

impl Tokens {
    /// No tokens: pairs and counts are open, the rest is closed.
    #[must_use]
    pub fn open() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Access::Open)))
    }

    /// Reads the file, and goes on reading it when it changes, until the end. New content that is no list of tokens leaves the old in force.
    ///
    /// # Errors
    /// [`TokensError`] where the file is none at the start.
    pub async fn watch(path: PathBuf, shutdown: Shutdown) -> Result<Self, TokensError> {
        let mut content = read(&path).await?;
        let tokens = Self(Arc::new(ArcSwap::from_pointee(Access::Only(parse(&path, &content)?))));
        let watched = tokens.clone();
        tokio::spawn(async move {
            let mut failing = false;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = shutdown.requested() => return,
                }
                let changed = match read(&path).await {
                    Ok(new) if new == content => {
                        failing = false;
                        continue;
                    }
                    Ok(new) => {
                        content = new;
                        failing = false;
                        parse(&path, &content)
                    }
                    Err(_) if failing => continue,
                    Err(error) => Err(error),
                };
                match changed {
                    Ok(list) => {
                        tracing::info!(tokens = list.len(), "the tokens file changed and is in force");
                        watched.0.store(Arc::new(Access::Only(list)));
                    }
                    Err(error) => {
                        failing = true;
                        tracing::error!(%error, "the tokens file changed and is NOT in force: the old tokens still are");
                    }
                }
            }
        });
        Ok(tokens)
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(**self.0.load(), Access::Open)
    }

    /// Whether a request with these headers may do what `scope` stands for.
    pub(crate) fn authorize(&self, scope: Scope, headers: &HeaderMap) -> Result<(), Problem> {
        match &**self.0.load() {
            Access::Open if scope.is_open() => Ok(()),
            Access::Open => {
                let detail = "this needs a token, and this server has none: start it with --tokens-file, a file that gives one the scope";
                Err(Problem::new(Kind::Forbidden, detail).with("scope", scope.name()))
            }
            Access::Only(tokens) => {
                let presented =
                    bearer(headers).ok_or_else(|| unauthorized("send it as Authorization: Bearer TOKEN"))?;
                let token = find(tokens, presented).ok_or_else(|| unauthorized("the token is not known here"))?;
                if token.scopes.contains(&scope) || token.scopes.contains(&Scope::Admin) {
                    return Ok(());
                }
                let detail = format!("the token lacks the scope {}", scope.name());
                Err(Problem::new(Kind::Forbidden, detail).with("scope", scope.name()))
            }
        }
    }
}

fn unauthorized(detail: &'static str) -> Problem {
    let challenge = HeaderValue::from_static("Bearer realm=\"segment-counter\"");
    Problem::new(Kind::Unauthorized, detail).header(header::WWW_AUTHENTICATE, challenge)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

/// Compares with every token, so that the time tells nothing of which one it was.
fn find<'a>(tokens: &'a [Token], presented: &str) -> Option<&'a Token> {
    let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
    let mut found = None;
    for token in tokens {
        let equal: Choice = token.hash.ct_eq(&hash);
        if bool::from(equal) {
            found = Some(token);
        }
    }
    found
}

async fn read(path: &Path) -> Result<Vec<u8>, TokensError> {
    let failed = |source| TokensError::Read {
        path: path.to_owned(),
        source,
    };
    if tokio::fs::metadata(path).await.map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(TokensError::Content {
            path: path.to_owned(),
            reason: "is larger than 1 MiB".to_owned(),
        });
    }
    tokio::fs::read(path).await.map_err(failed)
}

fn parse(path: &Path, content: &[u8]) -> Result<Vec<Token>, TokensError> {
    let wrong = |reason: String| TokensError::Content {
        path: path.to_owned(),
        reason,
    };
    let options = serde_saphyr::options! { with_snippet: false };
    // Where, and not what: the parser's text repeats what stands there, and people put tokens themselves there by mistake.
    let entries: Vec<Entry> = serde_saphyr::from_slice_with_options(content, options).map_err(|error| {
        let line = error.location().map_or(1, |place| place.line());
        wrong(format!(
            "is no YAML list of name, sha256 and scopes and nothing else: see line {line}"
        ))
    })?;
    if entries.is_empty() {
        return Err(wrong("names no token: nobody could do anything".to_owned()));
    }
    let mut names = BTreeSet::new();
    let mut hashes = BTreeSet::new();
    let mut tokens = Vec::with_capacity(entries.len());
    for Entry { name, sha256, scopes } in entries {
        let wrong = |what: &str| wrong(format!("has a token {name:?} {what}"));
        let mut hash = [0; 32];
        hex::decode_to_slice(&sha256, &mut hash).map_err(|_| wrong("whose sha256 is not 64 hexadecimal digits"))?;
        if scopes.is_empty() {
            return Err(wrong("without scopes"));
        }
        let unknown = || wrong("with an unknown scope: pairs:write, counts:read, users:read, users:erase, admin");
        let scopes = scopes
            .iter()
            .map(|scope| scope.parse())
            .collect::<Result<_, ()>>()
            .map_err(|()| unknown())?;
        if !hashes.insert(hash) {
            return Err(wrong("whose sha256 stands there twice"));
        }
        if !names.insert(name.clone()) {
            return Err(wrong("twice"));
        }
        tokens.push(Token { hash, scopes });
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Tokens, TokensError> {
        parse(Path::new("tokens.yaml"), text.as_bytes())
            .map(|list| Tokens(Arc::new(ArcSwap::from_pointee(Access::Only(list)))))
    }

    fn entry(name: &str, token: &str, scopes: &str) -> String {
        format!(
            "- {{name: {name}, sha256: {}, scopes: [{scopes}]}}\n",
            hex::encode(Sha256::digest(token))
        )
    }

    fn with(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())])
    }

    #[test]
    fn a_token_may_do_what_its_scopes_say_and_an_administrator_all() {
        let tokens = list(&(entry("shop", "s3cret", "'pairs:write'") + &entry("root", "r00t", "admin"))).unwrap();
        assert!(tokens.authorize(Scope::PairsWrite, &with("Bearer s3cret")).is_ok());
        assert!(tokens.authorize(Scope::PairsWrite, &with("bearer  s3cret ")).is_ok());
        let lacks = tokens.authorize(Scope::CountsRead, &with("Bearer s3cret")).unwrap_err();
        assert_eq!(lacks.kind, Kind::Forbidden);
        assert!(lacks.detail.contains("counts:read"));
        for scope in Scope::ALL {
            assert!(tokens.authorize(scope, &with("Bearer r00t")).is_ok());
        }
        for bad in ["Bearer s3cre", "Bearer ", "Basic s3cret", "s3cret"] {
            assert_eq!(
                tokens.authorize(Scope::PairsWrite, &with(bad)).unwrap_err().kind,
                Kind::Unauthorized,
                "{bad}"
            );
        }
        assert_eq!(
            tokens.authorize(Scope::PairsWrite, &HeaderMap::new()).unwrap_err().kind,
            Kind::Unauthorized
        );
    }

    #[test]
    fn without_tokens_pairs_and_counts_are_open_and_the_rest_says_the_cure() {
        let tokens = Tokens::open();
        assert!(tokens.authorize(Scope::PairsWrite, &HeaderMap::new()).is_ok());
        assert!(tokens.authorize(Scope::CountsRead, &HeaderMap::new()).is_ok());
        for scope in [Scope::UsersRead, Scope::UsersErase, Scope::Admin] {
            let problem = tokens.authorize(scope, &HeaderMap::new()).unwrap_err();
            assert_eq!(problem.kind, Kind::Forbidden);
            assert!(problem.detail.contains("--tokens-file"));
        }
    }

    #[test]
    fn a_file_that_is_no_list_of_tokens_is_refused_with_its_reason() {
        let hash = "0".repeat(64);
        for (text, reason) in [
            (String::new(), "no"),
            ("[]".to_owned(), "names no token"),
            ("- {name: a, sha256: 12, scopes: [admin]}".to_owned(), "64 hexadecimal"),
            (format!("- {{name: a, sha256: '{hash}', scopes: []}}"), "without scopes"),
            (
                format!("- {{name: a, sha256: '{hash}', scopes: [root]}}"),
                "unknown scope",
            ),
            (
                format!("- {{name: a, sha256: '{hash}', scopes: [admin], token: x}}"),
                "nothing else: see line 1",
            ),
            (entry("a", "x", "admin") + &entry("a", "y", "admin"), "twice"),
            (entry("a", "x", "admin") + &entry("b", "x", "admin"), "twice"),
        ] {
            let error = list(&text).unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains("tokens.yaml"),
                "{text}: {error}"
            );
        }
    }
}
