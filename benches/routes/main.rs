//! Lookups in large route tables: how long one takes for routes with a regex, routes of one path
//! that demand a value of a field, and a request that none of them takes.
//!
//!     cargo bench --bench routes

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement prints, and has nobody to hand an error to"
)]

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use headwater::config;
use headwater::route::table::RouteTable;
use headwater::route::{Lookup, Query};
use http::{HeaderMap, HeaderValue, Method};

const LOOKUPS: u32 = 20_000;

fn main() {
    println!(
        "{:<10} {:>7} {:>9} {:>9} {:>9}",
        "routes by", "routes", "build ms", "found ns", "none ns"
    );
    for count in [10, 100, 1_000, 10_000] {
        measure("regex", count, |text, number| {
            let _ = writeln!(text, "path = \"~^/r{number}/[0-9]+$\"");
        });
        measure("two parts", count, |text, number| {
            let _ = writeln!(text, "path = \"~^/users/[0-9]+/item-{number}$\"");
        });
        measure("header", count, |text, number| {
            let _ = writeln!(text, "path = \"/*\"\nheaders = {{ x-tenant = \"t{number}\" }}");
        });
    }
}

fn measure(kind: &str, count: usize, condition: impl Fn(&mut String, usize)) {
    let mut text = "[listener.web]\nbind = \"127.0.0.1:0\"\n".to_owned();
    for number in 0..count {
        text.push_str("[[route]]\nrespond = { status = 204 }\n");
        condition(&mut text, number);
        let _ = writeln!(text, "name = \"n{number}\"\npriority = {number}");
    }
    let file = std::env::temp_dir().join(format!("headwater-routes-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the folder is writable");
    let config = config::load(&file, &|_| None).into_config().expect("no problem").config;
    let _ = std::fs::remove_file(&file);
    let begun = Instant::now();
    let table = RouteTable::build(&config.routes).expect("no ties");
    let built = begun.elapsed();

    let number = count / 2;
    let paths = [format!("/r{number}/77"), format!("/users/77/item-{number}"), "/else".to_owned()];
    let path = match kind {
        "regex" => &paths[0],
        "two parts" => &paths[1],
        _ => &paths[2],
    };
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("bench"));
    let bare = headers.clone();
    headers.insert("x-tenant", format!("t{number}").parse().expect("a value"));
    let time = |path: &str, headers: &HeaderMap, found: Lookup| {
        let query = Query {
            listener: "web",
            host: "example.com",
            path,
            method: &Method::GET,
            query: None,
            headers,
        };
        assert_eq!(table.lookup(&query), found, "{kind} {path}");
        let begun = Instant::now();
        for _ in 0..LOOKUPS {
            black_box(table.lookup(black_box(&query)));
        }
        (begun.elapsed() / LOOKUPS).as_nanos()
    };
    let found = time(path, &headers, Lookup::Found(number));
    let none = time("/none/of/them", &bare, Lookup::NoRoute);
    println!("{kind:<10} {count:>7} {:>9.1} {found:>9} {none:>9}", built.as_secs_f64() * 1e3);
}
