//! The one `uri` that many Secrets hold, taken apart. Errors say what is wrong and never what it holds.

use super::SslMode;

/// The parts of `postgres://user:password@host:port/database?sslmode=…`, each of which may be absent.
#[derive(Default)]
pub(super) struct Uri {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) database: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) ssl_mode: Option<SslMode>,
}

impl Uri {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text
            .strip_prefix("postgresql://")
            .or_else(|| text.strip_prefix("postgres://"))
            .ok_or("does not begin with postgresql://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = split_address(address)?;

        let mut ssl_mode = None;
        for pair in query.split('&') {
            if let Some(value) = pair.strip_prefix("sslmode=") {
                ssl_mode = Some(value.parse()?);
            }
        }
        Ok(Self {
            host: decode(host)?,
            port: match port {
                "" => None,
                digits => Some(digits.parse().map_err(|_| "has a port that is not a number")?),
            },
            database: decode(path)?,
            user: decode(user)?,
            password: decode(password)?,
            ssl_mode,
        })
    }
}

/// `host:port`, `host` or `[v6]:port`.
fn split_address(address: &str) -> Result<(&str, &str), &'static str> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, tail) = rest
            .split_once(']')
            .ok_or("has an address without its closing bracket")?;
        return Ok((host, tail.strip_prefix(':').unwrap_or("")));
    }
    Ok(address.split_once(':').unwrap_or((address, "")))
}

/// Undoes percent-encoding; an empty part is an absent one.
fn decode(text: &str) -> Result<Option<String>, &'static str> {
    const BAD: &str = "has a broken percent-encoding";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            rest.next()
                .and_then(|b| char::from(b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        let (high, low) = (digit().ok_or(BAD)?, digit().ok_or(BAD)?);
        bytes.push(high * 16 + low);
    }
    if bytes.contains(&0) {
        return Err("holds a NUL");
    }
    let decoded = String::from_utf8(bytes).map_err(|_| BAD)?;
    Ok(if decoded.is_empty() { None } else { Some(decoded) })
}
