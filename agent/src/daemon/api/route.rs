//! What is asked for: method, path and parameters as one value.

use hyper::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::error::{ApiError, ErrorKind};
use crate::daemon::hub::Filter;

/// Longest name of a scope that is looked for.
const MAX_NAME: usize = 255;

/// A request, its body left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET /v1/status`
    Status,
    /// `GET /v1/scopes/{name}`
    Scope(String),
    /// `GET /v1/events`
    Events {
        /// Go on with what comes, instead of telling what was.
        follow: bool,
        /// Which.
        filter: Filter,
    },
    /// `GET /v1/metrics`
    Metrics,
    /// `POST /v1/reload`
    Reload,
    /// `POST /v1/scopes/{name}/mode`
    Mode(String),
    /// `POST /v1/scopes/{name}/shadow`
    StartShadow(String),
    /// `GET /v1/scopes/{name}/shadow`
    Shadow(String),
    /// `DELETE /v1/scopes/{name}/shadow`
    EndShadow(String),
    /// `POST /v1/tag`
    Tag,
    /// `POST /v1/untag`
    Untag,
    /// `POST /v1/run`
    Run,
    /// `POST /v1/run/{scope}/end`
    EndRun(String),
    /// `POST /v1/detach`
    Detach,
}

impl Route {
    /// Reads a request line.
    ///
    /// # Errors
    /// No such path, method or parameter.
    pub fn of(method: &Method, uri: &Uri) -> Result<Self, ApiError> {
        let segments: Vec<&str> = uri.path().split('/').skip(1).collect();
        let name = |text: &str| {
            let name = percent_decode_str(text).decode_utf8().ok().filter(|name| {
                !name.is_empty() && name.len() <= MAX_NAME && !name.contains(char::is_control)
            });
            name.map(std::borrow::Cow::into_owned)
                .ok_or_else(|| ApiError::new(ErrorKind::BadRequest, "the scope's name is not one"))
        };
        let (allow, route): (&str, Option<Result<Self, ApiError>>) = match (&segments[..], method.as_str()) {
            (["v1", "status"], "GET") => ("GET", Some(Ok(Self::Status))),
            (["v1", "status"], _) => ("GET", None),
            (["v1", "events"], "GET") => ("GET", Some(events(uri.query().unwrap_or_default()))),
            (["v1", "events"], _) => ("GET", None),
            (["v1", "metrics"], "GET") => ("GET", Some(Ok(Self::Metrics))),
            (["v1", "metrics"], _) => ("GET", None),
            (["v1", "scopes", scope], "GET") => ("GET", Some(name(scope).map(Self::Scope))),
            (["v1", "scopes", _], _) => ("GET", None),
            (["v1", "scopes", scope, "mode"], "POST") => ("POST", Some(name(scope).map(Self::Mode))),
            (["v1", "scopes", _, "mode"], _) => ("POST", None),
            (["v1", "scopes", scope, "shadow"], "POST") => ("", Some(name(scope).map(Self::StartShadow))),
            (["v1", "scopes", scope, "shadow"], "GET") => ("", Some(name(scope).map(Self::Shadow))),
            (["v1", "scopes", scope, "shadow"], "DELETE") => ("", Some(name(scope).map(Self::EndShadow))),
            (["v1", "scopes", _, "shadow"], _) => ("GET, POST, DELETE", None),
            (["v1", "reload"], "POST") => ("POST", Some(Ok(Self::Reload))),
            (["v1", "tag"], "POST") => ("POST", Some(Ok(Self::Tag))),
            (["v1", "untag"], "POST") => ("POST", Some(Ok(Self::Untag))),
            (["v1", "run"], "POST") => ("POST", Some(Ok(Self::Run))),
            (["v1", "detach"], "POST") => ("POST", Some(Ok(Self::Detach))),
            (["v1", "reload" | "tag" | "untag" | "run" | "detach"], _) => ("POST", None),
            (["v1", "run", scope, "end"], "POST") => ("POST", Some(name(scope).map(Self::EndRun))),
            (["v1", "run", _, "end"], _) => ("POST", None),
            _ => {
                let message = "there is no such path: docs/api.md lists them; they begin with /v1/";
                return Err(ApiError::new(ErrorKind::NotFound, message));
            }
        };
        let Some(route) = route else {
            let message = format!("this path knows {allow} only");
            return Err(ApiError {
                allow: Some(allow),
                ..ApiError::new(ErrorKind::MethodNotAllowed, message)
            });
        };
        let route = route?;
        if uri.query().is_some_and(|query| !query.is_empty()) && !matches!(route, Self::Events { .. }) {
            return Err(ApiError::new(ErrorKind::BadRequest, "this path takes no parameters"));
        }
        Ok(route)
    }
}

fn events(query: &str) -> Result<Route, ApiError> {
    let (mut follow, mut filter) = (false, Filter::default());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let yes = || match &*value {
            "" | "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(ApiError::new(ErrorKind::BadRequest, format!("{key} is true or false"))),
        };
        match &*key {
            "follow" => follow = yes()?,
            "denied" => filter.denied = yes()?,
            "scope" => filter.scope = Some(value.into_owned()),
            _ => {
                let message = "parameters are follow, scope and denied";
                return Err(ApiError::new(ErrorKind::BadRequest, message));
            }
        }
    }
    Ok(Route::Events { follow, filter })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, uri: &str) -> Result<Route, ApiError> {
        Route::of(&Method::from_bytes(method.as_bytes()).unwrap(), &uri.parse().unwrap())
    }

    fn kind(method: &str, uri: &str) -> ErrorKind {
        of(method, uri).unwrap_err().kind
    }

    #[test]
    fn every_route_is_found() {
        let ci = || "ci".to_owned();
        for (method, uri, route) in [
            ("GET", "/v1/status", Route::Status),
            ("GET", "/v1/scopes/ci", Route::Scope(ci())),
            ("GET", "/v1/scopes/a%2Fb%20c", Route::Scope("a/b c".into())),
            ("GET", "/v1/metrics", Route::Metrics),
            ("POST", "/v1/reload", Route::Reload),
            ("POST", "/v1/scopes/ci/mode", Route::Mode(ci())),
            ("POST", "/v1/scopes/ci/shadow", Route::StartShadow(ci())),
            ("GET", "/v1/scopes/ci/shadow", Route::Shadow(ci())),
            ("DELETE", "/v1/scopes/ci/shadow", Route::EndShadow(ci())),
            ("POST", "/v1/tag", Route::Tag),
            ("POST", "/v1/untag", Route::Untag),
            ("POST", "/v1/run", Route::Run),
            ("POST", "/v1/run/ci/end", Route::EndRun(ci())),
            ("POST", "/v1/detach", Route::Detach),
        ] {
            assert_eq!(of(method, uri), Ok(route), "{method} {uri}");
        }
    }

    #[test]
    fn parameters_of_events() {
        let filter =
            |scope: Option<&str>, denied| Filter { scope: scope.map(Into::into), denied, run_uid: None };
        for (query, follow, filter) in [
            ("", false, filter(None, false)),
            ("?follow", true, filter(None, false)),
            ("?follow=1&scope=a+b%26&denied=true", true, filter(Some("a b&"), true)),
            ("?follow=false&denied=0", false, filter(None, false)),
        ] {
            assert_eq!(
                of("GET", &format!("/v1/events{query}")),
                Ok(Route::Events { follow, filter }),
                "{query}"
            );
        }
        for query in ["?follow=maybe", "?uid=0", "?run_uid=0"] {
            assert_eq!(kind("GET", &format!("/v1/events{query}")), ErrorKind::BadRequest, "{query}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for uri in [
            "/",
            "/v1",
            "/v1/",
            "/v2/status",
            "/v1/status/",
            "/v1/scopes",
            "/v1/run/a",
            "//v1/status",
            "/v1/../v1/status",
        ] {
            assert_eq!(kind("GET", uri), ErrorKind::NotFound, "{uri}");
        }
        for (method, uri) in
            [("POST", "/v1/status"), ("GET", "/v1/run"), ("PUT", "/v1/scopes/ci"), ("HEAD", "/v1/detach")]
        {
            assert_eq!(kind(method, uri), ErrorKind::MethodNotAllowed, "{method} {uri}");
        }
        assert_eq!(of("PUT", "/v1/scopes/ci/shadow").unwrap_err().allow, Some("GET, POST, DELETE"));
        for uri in ["/v1/scopes/", "/v1/scopes/%ff", "/v1/scopes/a%0ab", "/v1/status?x=1"] {
            assert_eq!(kind("GET", uri), ErrorKind::BadRequest, "{uri}");
        }
    }
}
