//! `headwater explain`: what would become of a request, without sending it.

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::explain::{self, Question};
use crate::server::{self, Exit};

/// The request, and perhaps an answer to it.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// The method of the request.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: Method,
    /// A field of the request.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A field of an answer that is to be judged.
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    response_header: Vec<(HeaderName, HeaderValue)>,
    /// The status of that answer.
    #[arg(long, value_name = "CODE")]
    response_status: Option<StatusCode>,
    /// The listener that the request comes to.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// An absolute http or https URL.
    url: Uri,
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as NAME: VALUE")?;
    let name = HeaderName::try_from(name.trim()).map_err(|error| error.to_string())?;
    let value = HeaderValue::try_from(value.trim()).map_err(|error| error.to_string())?;
    Ok((name, value))
}

/// Explains a request by a configuration file.
pub(super) fn run(config: &Path, asked: Asked) -> Exit {
    let compiled = match server::compiled(config) {
        Ok(compiled) => compiled,
        Err(exit) => return exit,
    };
    let answer =
        (asked.response_status.is_some() || !asked.response_header.is_empty()).then(|| {
            let headers: HeaderMap = asked.response_header.into_iter().collect();
            (asked.response_status.unwrap_or(StatusCode::OK), headers)
        });
    let question = Question {
        method: asked.method,
        url: asked.url,
        headers: asked.headers.into_iter().collect(),
        listener: asked.listener,
        answer,
    };
    let text = match explain::explain(&compiled.snapshot, &question) {
        Ok(found) if asked.json => serde_json::to_string_pretty(&found).map(|json| json + "\n"),
        Ok(found) => Ok(found.to_string()),
        Err(explain::Unexplained(why)) => {
            let _ = writeln!(io::stderr(), "error: {why}");
            return Exit::Refused;
        }
    };
    match text {
        Ok(text) if io::stdout().write_all(text.as_bytes()).is_ok() => Exit::Clean,
        // Nobody reads.
        _ => Exit::StartFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_a_colon_and_a_value() {
        let (name, value) = field("X-A:  b: c ").expect("a field");
        assert_eq!((name.as_str(), value.as_bytes()), ("x-a", &b"b: c"[..]));
        assert!(field("no colon").is_err());
        assert!(field("a b: c").is_err());
    }
}
