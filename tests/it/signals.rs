//! What signals do, and what they do not.

use rustix::process::Signal;

use crate::support::origin::Gate;
use crate::support::{HOST, Origin, Setup, ok};

#[test]
fn sigquit_drains_like_sigterm() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        waits.pass();
        call.send(&ok("late"));
    });
    let mut proxy = Setup::of(&[&origin]).start();
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    origin.requests(1);
    proxy.signal(Signal::Quit);
    proxy.wait_for_refusal(proxy.address());
    gate.open();
    assert_eq!(client.answer().text(), "late");
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn signals_without_a_meaning_end_nothing() {
    let mut proxy = Setup::empty().text("[[route]]\nrespond = { status = 204 }").start();
    for signal in [
        Signal::Usr2,
        Signal::Pipe,
        Signal::Alarm,
        Signal::Vtalarm,
        Signal::Prof,
        Signal::Io,
        Signal::Power,
        Signal::Stkflt,
        Signal::Xfsz,
        Signal::Winch,
        Signal::Child,
        Signal::Urg,
    ] {
        proxy.signal(signal);
        assert_eq!(proxy.get("/", &[]).status, 204, "{signal:?}");
        assert!(proxy.is_running(), "{signal:?}");
    }
}

#[test]
fn a_reload_that_was_asked_for_during_the_start_ends_nothing() {
    let mut proxy = Setup::empty().text("[[route]]\nrespond = { status = 204 }").start();
    for _ in 0..20 {
        proxy.signal(Signal::Hup);
    }
    assert_eq!(proxy.get("/", &[]).status, 204);
    assert!(proxy.is_running());
}
