//! What the process tells whoever started it (`sd_notify`), as systemd does.

use std::fs;
use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::support::proxy::command;
use crate::support::{Folder, PATIENCE, Proxy, Setup};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

struct Supervisor(UnixDatagram);

impl Supervisor {
    fn start(setup: &Setup, environment: &[(&str, &str)]) -> (Self, Proxy) {
        let folder = Folder::new();
        folder.write("headwater.toml", setup.to_string());
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut run = command(&["run", "-c"], &folder.join("headwater.toml"));
        run.env("NOTIFY_SOCKET", &path).envs(environment.iter().copied());
        (Self(socket), Proxy::start_by(run, folder))
    }

    /// The next thing that is said.
    fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.0.recv(&mut bytes).expect("something is said");
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }
}

#[test]
fn readiness_reloads_and_the_stop_are_told() {
    let setup = Setup::empty().text(HELLO);
    let (supervisor, mut proxy) = Supervisor::start(&setup, &[]);
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving configuration 1\n");
    proxy.reload(&setup.text("[pool.b]\nendpoints = [\"127.0.0.1:1\"]"));
    let reloading = supervisor.told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving configuration 2\n");
    proxy.signal(Signal::Hup);
    assert!(supervisor.told().starts_with("RELOADING=1\n"));
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving configuration 2\n");
    proxy.terminate();
    assert_eq!(supervisor.told(), "STOPPING=1\nSTATUS=draining\n");
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn a_refused_reload_is_over_too() {
    let setup = Setup::empty().text(HELLO);
    let (supervisor, proxy) = Supervisor::start(&setup, &[]);
    supervisor.told();
    assert_eq!(proxy.try_reload(&setup.text("nonsense = 1")).status, 422);
    assert!(supervisor.told().starts_with("RELOADING=1\n"));
    let ready = supervisor.told();
    assert_eq!(ready, "READY=1\nSTATUS=serving configuration 1; a later one was refused\n");
}

#[test]
fn signs_of_life_come_as_often_as_they_are_asked_for() {
    let setup = Setup::empty().process("workers = 2").text(HELLO);
    let (supervisor, _proxy) = Supervisor::start(&setup, &[("WATCHDOG_USEC", "300000")]);
    let said: Vec<_> = (0..4).map(|_| supervisor.told()).collect();
    assert_eq!(said.iter().filter(|said| *said == "WATCHDOG=1\n").count(), 3, "{said:?}");
}

#[test]
fn the_units_hold_what_the_program_does() {
    let unit = |name: &str| {
        fs::read_to_string(format!("{}/deploy/systemd/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let service = unit("headwater.service");
    for line in lines(&service).into_iter().chain(lines(&unit("headwater.socket"))) {
        let is_section = line.starts_with('[') && line.ends_with(']');
        let is_setting = line.split_once('=').is_some_and(|(key, value)| {
            key.chars().all(|c| c.is_ascii_alphanumeric()) && !value.is_empty()
        });
        assert!(is_section || is_setting, "{line}");
    }
    for wanted in [
        "Type=notify",
        "WatchdogSec=30s",
        "SuccessExitStatus=3",
        "RestartPreventExitStatus=2",
        "StateDirectory=headwater",
        "ExecReload=/usr/local/bin/headwater reload -c conf/headwater.toml",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    ] {
        assert!(service.lines().any(|line| line == wanted), "{wanted}");
    }
}
