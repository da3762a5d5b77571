//! An API server in memory, so far as the operator speaks to one: server-side apply with one manager and its conflicts, generations,
//! resource versions, selectors on equality, `status` apart. It writes down what it is asked, and refuses what a test wants refused.
//!
//! Requests, objects and refusals go by short names: `PATCH deployments/ads-api` is that of the namespace `growth`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use kube::{Client, client::Body};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::merge::{clash, fields, forget, merge, spec_of};

/// Where each kind is served. Another path is answered as a real server answers it: 404.
const SERVED: [(&str, &str); 12] = [
    ("configmaps", "/api/v1"),
    ("cronjobs", "/apis/batch/v1"),
    ("deployments", "/apis/apps/v1"),
    ("events", "/apis/events.k8s.io/v1"),
    ("jobs", "/apis/batch/v1"),
    ("poddisruptionbudgets", "/apis/policy/v1"),
    ("pods", "/api/v1"),
    ("secrets", "/api/v1"),
    ("segmentcounters", "/apis/segmentcounter.io/v1alpha1"),
    ("serviceaccounts", "/api/v1"),
    ("services", "/api/v1"),
    ("statefulsets", "/apis/apps/v1"),
];

/// What was asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    method: String,
    /// As it is told, without the group: `deployments/ads-api`.
    name: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) content_type: String,
    pub(super) body: String,
}

impl Request {
    /// `PATCH deployments/ads-api`
    pub(super) fn short(&self) -> String {
        format!("{} {}", self.method, self.name)
    }
}

/// The server. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Entry>,
    /// Of the last change: resource versions and uids are counted, so that no two are the same.
    version: u64,
    requests: Vec<Request>,
    refusals: Vec<Refusal>,
}

#[derive(Clone, Default)]
struct Entry {
    object: Value,
    /// What the manager applied last: what it no longer applies goes.
    applied: Value,
    /// What others changed since: an apply that is not forced must not take it from them.
    others: Value,
}

struct Refusal {
    short: String,
    code: u16,
    once: bool,
}

type Answer = Result<Value, (u16, &'static str)>;

impl Server {
    /// A client of this server.
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.serve(request).await) }
        });
        Client::new(service, "growth")
    }

    /// What stands.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.state().objects.get(name).map(|entry| entry.object.clone())
    }

    /// The names of the objects of a kind.
    pub(super) fn names(&self, plural: &str) -> Vec<String> {
        let state = self.state();
        let names = state.objects.keys().filter(|name| plural_of(name) == plural);
        names.cloned().collect()
    }

    /// Somebody makes an object.
    pub(super) fn put(&self, name: &str, object: Value) {
        self.state().create(name, object);
    }

    /// Somebody else changes an object, by a merge patch.
    pub(super) fn change(&self, name: &str, patch: &Value) {
        let mut state = self.state();
        let old = state.objects[name].clone();
        let mut entry = old.clone();
        merge(&mut entry.object, patch);
        merge(&mut entry.others, patch);
        state.store(name, &old, entry);
    }

    /// A controller tells how an object stands: no generation moves.
    pub(super) fn set_status(&self, name: &str, status: &Value) {
        let mut state = self.state();
        let old = state.objects[name].clone();
        let mut entry = old.clone();
        entry.object["status"] = status.clone();
        state.store(name, &old, entry);
    }

    /// Somebody deletes an object.
    pub(super) fn delete(&self, name: &str) {
        self.state().objects.remove(name).unwrap();
    }

    /// Refuses such requests (`PATCH deployments/ads-api`) until [`Self::accept`].
    pub(super) fn refuse(&self, short: &str, code: u16) {
        self.refusal(short, code, false);
    }

    /// Refuses one such request.
    pub(super) fn refuse_once(&self, short: &str, code: u16) {
        self.refusal(short, code, true);
    }

    fn refusal(&self, short: &str, code: u16, once: bool) {
        let short = short.to_owned();
        self.state().refusals.push(Refusal { short, code, once });
    }

    /// Refuses nothing more. That a refusal of one request was used is looked at, so that no test waits for a fault that never came.
    pub(super) fn accept(&self) {
        let refusals = std::mem::take(&mut self.state().refusals);
        let unused: Vec<_> = refusals.iter().filter(|r| r.once).map(|r| &r.short).collect();
        assert!(unused.is_empty(), "never asked: {unused:?}");
    }

    /// What was asked since the last call, in order.
    pub(super) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// The same without what only reads, in short.
    pub(super) fn written(&self) -> Vec<String> {
        let asked = self.asked();
        let writes = asked.iter().filter(|request| request.method != "GET");
        writes.map(Request::short).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn serve(&self, request: http::Request<Body>) -> http::Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let content_type = parts.headers.get(http::header::CONTENT_TYPE);
        let request = Request {
            method: parts.method.to_string(),
            name: short_name(parts.uri.path()),
            query: pairs(parts.uri.query().unwrap_or_default()),
            content_type: content_type.map_or(String::new(), |value| value.to_str().unwrap().to_owned()),
            body: String::from_utf8(body.to_vec()).unwrap(),
        };
        let (code, body) = match self.state().answer(&request) {
            Ok(object) => (200, object),
            Err((code, reason)) => (
                code,
                json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "reason": reason, "code": code, "message": format!("{} is refused: {reason}", request.short()),
                }),
            ),
        };
        let body = Full::new(Bytes::from(body.to_string()));
        http::Response::builder().status(code).body(body).unwrap()
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        self.requests.push(request.clone());
        let short = request.short();
        if let Some(at) = self.refusals.iter().position(|refusal| refusal.short == short) {
            let code = self.refusals[at].code;
            if self.refusals[at].once {
                self.refusals.remove(at);
            }
            return Err((code, reason(code)));
        }
        if !SERVED.iter().any(|(plural, _)| *plural == plural_of(&request.name)) {
            return Err((404, "NotFound"));
        }
        let body = || serde_json::from_str::<Value>(&request.body).map_err(|_| (400, "BadRequest"));
        let parts: Vec<_> = request.name.split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", [plural]) => self.list(plural, request.query.get("labelSelector")),
            ("GET", [_, _]) => self.standing(&request.name).map(|entry| entry.object),
            ("POST", [plural]) => {
                let body = body()?;
                let name = body["metadata"]["name"].as_str().ok_or((422, "Invalid"))?;
                let name = format!("{plural}/{name}");
                if self.objects.contains_key(&name) {
                    return Err((409, "AlreadyExists"));
                }
                Ok(self.create(&name, body))
            }
            ("PATCH", [_, _]) => self.patch(request, body()?),
            ("PATCH", [plural, name, "status"]) => {
                applies(request)?;
                let name = format!("{plural}/{name}");
                let old = self.standing(&name)?;
                let mut entry = old.clone();
                entry.object["status"] = body()?["status"].take();
                Ok(self.store(&name, &old, entry))
            }
            ("DELETE", [_, _]) => {
                self.standing(&request.name)?;
                self.objects.remove(&request.name);
                Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
            }
            _ => Err((405, "MethodNotAllowed")),
        }
    }

    fn standing(&self, name: &str) -> Result<Entry, (u16, &'static str)> {
        self.objects.get(name).cloned().ok_or((404, "NotFound"))
    }

    fn list(&self, plural: &str, selector: Option<&String>) -> Answer {
        let wanted = selector.map(|selector| pairs(&selector.replace(',', "&")));
        let chosen = |entry: &&Entry| {
            let labels = &entry.object["metadata"]["labels"];
            wanted.iter().flatten().all(|(key, value)| labels[key] == **value)
        };
        let all = self.objects.iter().filter(|(name, _)| plural_of(name) == plural);
        let items: Vec<_> = all.map(|(_, entry)| entry).filter(chosen).map(|e| &e.object).collect();
        Ok(json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn patch(&mut self, request: &Request, mut body: Value) -> Answer {
        if request.content_type == "application/merge-patch+json" {
            let old = self.standing(&request.name)?;
            let mut entry = old.clone();
            merge(&mut entry.object, &body);
            return Ok(self.store(&request.name, &old, entry));
        }
        let force = applies(request)?;
        if body["apiVersion"].is_null() || body["kind"].is_null() {
            return Err((400, "BadRequest"));
        }
        if let Some(fields) = body.as_object_mut() {
            fields.remove("status");
        }
        let Ok(old) = self.standing(&request.name) else {
            self.create(&request.name, body.clone());
            let entry = self.objects.entry(request.name.clone()).or_default();
            entry.applied = body;
            return Ok(entry.object.clone());
        };
        if !force && clash(&old.others, &body) {
            return Err((409, "Conflict"));
        }
        let mut entry = old.clone();
        forget(&mut entry.object, &old.applied, &body);
        merge(&mut entry.object, &body);
        entry.applied = body;
        entry.others = Value::Null;
        Ok(self.store(&request.name, &old, entry))
    }

    fn create(&mut self, name: &str, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let meta = fields(&mut object["metadata"]);
        meta.insert("name".to_owned(), json!(name.rsplit('/').next()));
        meta.insert("namespace".to_owned(), json!("growth"));
        meta.insert("resourceVersion".to_owned(), json!(version.to_string()));
        meta.entry("uid").or_insert_with(|| json!(format!("uid-{version}")));
        if has_generation(name) {
            meta.entry("generation").or_insert_with(|| json!(1));
        }
        let entry = Entry {
            object: object.clone(),
            ..Entry::default()
        };
        self.objects.insert(name.to_owned(), entry);
        object
    }

    /// What changed nothing moves no version; what changed more than metadata and status moves the generation.
    fn store(&mut self, name: &str, old: &Entry, mut new: Entry) -> Value {
        if old.object != new.object {
            self.version += 1;
            let moved = spec_of(&old.object) != spec_of(&new.object);
            let meta = fields(&mut new.object["metadata"]);
            meta.insert("resourceVersion".to_owned(), json!(self.version.to_string()));
            if moved && has_generation(name) {
                let generation = meta["generation"].as_i64().unwrap_or_default();
                meta.insert("generation".to_owned(), json!(generation + 1));
            }
        }
        self.objects.insert(name.to_owned(), new.clone());
        new.object
    }
}

/// That a request is an apply with a manager, as a real server wants it; whether it is forced.
fn applies(request: &Request) -> Result<bool, (u16, &'static str)> {
    if request.content_type != "application/apply-patch+yaml" {
        return Err((415, "UnsupportedMediaType"));
    }
    if !request.query.contains_key("fieldManager") {
        return Err((400, "BadRequest"));
    }
    Ok(request.query.get("force").is_some_and(|force| force == "true"))
}

/// The core kinds that the operator makes have none.
fn has_generation(name: &str) -> bool {
    let served = SERVED.iter().find(|(plural, _)| *plural == plural_of(name));
    served.is_some_and(|(_, group)| group.starts_with("/apis/"))
}

fn plural_of(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}

/// `/apis/apps/v1/namespaces/growth/deployments/ads-api` as `deployments/ads-api`; what is not served there, as it is.
fn short_name(path: &str) -> String {
    let rest = path.split_once("/namespaces/growth/");
    match rest {
        Some((group, name)) if SERVED.contains(&(plural_of(name), group)) => name.to_owned(),
        _ => path.to_owned(),
    }
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decoded(key), decoded(value))).collect()
}

fn reason(code: u16) -> &'static str {
    match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    }
}
