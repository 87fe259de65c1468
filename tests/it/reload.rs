//! Taking a new configuration while running.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use rustix::process::Signal;

use crate::support::origin::Gate;
use crate::support::proxy::run_to_end;
use crate::support::{Client, Folder, HOST, Origin, Proxy, Setup, eventually, ok};

const GENERATION: &str = "headwater_config_generation";
const SUCCESSFUL: &str = "headwater_config_last_reload_successful";

/// Answers everything with this text.
fn saying(text: &str) -> Setup {
    Setup::empty().text(&format!("[[route]]\nrespond = {{ status = 200, body = \"{text}\" }}"))
}

/// Starts, and waits until the files are watched.
fn watched(setup: &Setup) -> Proxy {
    let proxy = setup.start();
    wait_for_watch(&proxy);
    proxy
}

/// Reloads are asked for and noticed in one place, which watches before it listens to askers.
fn wait_for_watch(proxy: &Proxy) {
    assert_eq!(proxy.api_post("/api/reload", "").status, 200);
}

fn wait_to_say(proxy: &Proxy, text: &str) {
    eventually(text, || (proxy.get("/", &[]).text() == text).then_some(()));
}

#[test]
fn a_change_right_after_the_start_is_noticed() {
    let proxy = saying("old").start();
    proxy.folder.write("headwater.toml", saying("new").to_string());
    wait_to_say(&proxy, "new");
}

#[test]
fn a_change_of_the_file_is_noticed() {
    let proxy = watched(&saying("old"));
    let mut client = proxy.connect();
    assert_eq!(client.get("/", &[]).text(), "old");
    proxy.folder.write("headwater.toml", saying("new").to_string());
    wait_to_say(&proxy, "new");
    assert_eq!(client.get("/", &[]).text(), "new", "open connections follow");
    assert_eq!(proxy.generation(), 2);
}

#[test]
fn a_change_in_place_is_noticed() {
    let proxy = watched(&saying("old"));
    fs::write(proxy.folder.join("headwater.toml"), saying("new").to_string()).unwrap();
    wait_to_say(&proxy, "new");
}

#[test]
fn included_files_are_followed_and_so_are_those_that_appear() {
    let route = |path: &str, text: &str| {
        format!("[[route]]\npaths = [\"{path}\"]\nrespond = {{ status = 200, body = \"{text}\" }}")
    };
    let folder = Folder::new();
    folder.write("conf.d/one.toml", route("/one", "one"));
    let include = "include = [\"conf.d/*.toml\"]\n";
    folder.write("headwater.toml", format!("{include}{}", Setup::empty()));
    let proxy = Proxy::start(folder);
    wait_for_watch(&proxy);
    assert_eq!(proxy.get("/one", &[]).text(), "one");
    proxy.folder.write("conf.d/one.toml", route("/one", "changed"));
    eventually("the change", || (proxy.get("/one", &[]).text() == "changed").then_some(()));
    proxy.folder.write("conf.d/two.toml", route("/two", "two"));
    eventually("the new file", || (proxy.get("/two", &[]).text() == "two").then_some(()));
    fs::remove_file(proxy.folder.join("conf.d/one.toml")).unwrap();
    eventually("its absence", || (proxy.get("/one", &[]).status == 404).then_some(()));
}

#[test]
fn a_swap_of_symbolic_links_is_noticed() {
    // As Kubernetes mounts a ConfigMap: headwater.toml → ..data/headwater.toml, ..data → ..1.
    let folder = Folder::new();
    folder.write("..1/headwater.toml", saying("old").to_string());
    folder.write("..2/headwater.toml", saying("new").to_string());
    symlink("..1", folder.join("..data")).unwrap();
    symlink("..data/headwater.toml", folder.join("headwater.toml")).unwrap();
    let proxy = Proxy::start(folder);
    wait_for_watch(&proxy);
    assert_eq!(proxy.get("/", &[]).text(), "old");
    symlink("..2", proxy.folder.join("..data_tmp")).unwrap();
    fs::rename(proxy.folder.join("..data_tmp"), proxy.folder.join("..data")).unwrap();
    wait_to_say(&proxy, "new");
}

#[test]
fn sighup_reads_the_files_again() {
    let proxy = saying("old").start();
    proxy.signal(Signal::Hup);
    let succeeded = "headwater_config_reloads_total{result=\"success\"}";
    proxy.wait_for_metric(succeeded, 1.0);
    assert_eq!(proxy.metric(GENERATION), 1.0, "the same content again changes nothing");
}

#[test]
fn the_admin_api_tells_what_came_of_a_reload() {
    let proxy = saying("old").start();
    let same = proxy.api_post("/api/reload", "").json();
    assert_eq!((&same["generation"], &same["changed"]), (&1.into(), &false.into()));
    proxy.reload(&saying("new"));
    assert_eq!(proxy.generation(), 2);
    let status = proxy.api_get("/api/status").json();
    assert_eq!(status["last_reload"]["ok"], true);
    assert_eq!(proxy.get("/", &[]).text(), "new");
}

#[test]
fn a_broken_file_changes_nothing_but_what_is_told_of_it() {
    let proxy = saying("old").start();
    let broken = saying("new").listener("timeouts.idle = \"soon\"").route("x").text("[pol.x]\n");
    let answer = proxy.try_reload(&broken);
    assert_eq!(answer.status, 422);
    let problems = answer.json();
    let problems = problems["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{problems:?}");
    let text = broken.to_string();
    for (problem, words) in problems.iter().zip(["soon", "[pol.x]"]) {
        let line = text.lines().position(|line| line.contains(words)).unwrap() + 1;
        assert_eq!(problem["line"], line, "{problem}");
        assert!(problem["column"].as_u64().unwrap() > 0, "{problem}");
        assert!(problem["file"].as_str().unwrap().ends_with("headwater.toml"), "{problem}");
        proxy.wait_for_log(&format!("headwater.toml:{line}:{}", problem["column"]));
    }
    assert_eq!(proxy.get("/", &[]).text(), "old");
    assert_eq!((proxy.metric(SUCCESSFUL), proxy.metric(GENERATION)), (0.0, 1.0));
    let status = proxy.api_get("/api/status").json();
    assert_eq!(status["last_reload"]["ok"], false);
    assert!(status["last_reload"]["error"].as_str().unwrap().contains("soon"), "{status}");

    proxy.reload(&saying("mended"));
    assert_eq!(proxy.get("/", &[]).text(), "mended");
    assert_eq!(proxy.metric(SUCCESSFUL), 1.0);
}

#[test]
fn going_back_to_what_runs_mends_a_failure() {
    let proxy = watched(&saying("old"));
    proxy.folder.write("headwater.toml", "broken");
    proxy.wait_for_metric(SUCCESSFUL, 0.0);
    proxy.folder.write("headwater.toml", saying("old").to_string());
    proxy.wait_for_metric(SUCCESSFUL, 1.0);
    assert_eq!(proxy.metric(GENERATION), 1.0);
}

#[test]
fn a_file_that_is_gone_keeps_the_old_configuration() {
    let proxy = watched(&saying("old"));
    fs::remove_file(proxy.folder.join("headwater.toml")).unwrap();
    proxy.wait_for_metric(SUCCESSFUL, 0.0);
    assert_eq!(proxy.get("/", &[]).text(), "old");
}

/// A proxy with a listener `side`, a request under way on it, and then without it.
fn without_side() -> (Gate, Origin, Proxy, Client) {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::scripted(move |call| {
        waits.pass();
        call.send(&ok("finished"));
    });
    let setup = Setup::of(&[&origin]);
    let proxy = setup.start();
    proxy.reload(&setup.clone().text("[listener.side]\nbind = \"127.0.0.1:0\""));
    let side = proxy.address_of("side");
    let mut open = Client::connect(side);
    open.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    origin.requests(1);
    proxy.reload(&setup);
    proxy.wait_for_refusal(side);
    (gate, origin, proxy, open)
}

#[test]
fn listeners_come_and_go() {
    let (gate, _origin, proxy, mut open) = without_side();
    gate.open();
    assert_eq!(open.answer().text(), "finished", "what is open is finished");
    assert_eq!(proxy.get("/", &[]).text(), "finished", "the other one goes on");
    let metrics = proxy.api_get("/metrics").text();
    assert!(!metrics.contains("listener=\"side\""), "its series are dropped");
}

#[test]
fn a_connection_of_a_removed_listener_ends_with_its_request() {
    let (gate, _origin, _proxy, mut open) = without_side();
    gate.open();
    assert!(open.answer().closes());
    open.assert_closed();
}

#[test]
fn a_listener_that_cannot_be_bound_fails_the_reload() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let proxy = saying("old").start();
    let more = format!("[listener.side]\nbind = [\"127.0.0.1:0\", \"{address}\"]");
    let answer = proxy.try_reload(&saying("new").text(&more));
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains(&address.to_string()), "{}", answer.text());
    assert_eq!(proxy.get("/", &[]).text(), "old");
    drop(taken);
    assert_eq!(proxy.api_post("/api/reload", "").status, 200, "the same file, but a free port");
    assert_eq!(Client::connect(address).get("/", &[]).text(), "new");
}

#[test]
fn an_address_may_move_to_another_listener() {
    // An address that no other test uses: it was free a moment ago.
    let free = TcpListener::bind("127.77.0.1:0").unwrap().local_addr().unwrap();
    let proxy = saying("old").listener(&format!("bind = \"{free}\"")).start();
    let mut open = proxy.connect();
    open.get("/", &[]);
    let moved = format!(
        "[process]\nworkers = 1\n[admin]\nbind = \"127.0.0.1:0\"\n\
         [listener.other]\nbind = \"{free}\"\n\
         [[route]]\nlisteners = [\"other\"]\nrespond = {{ status = 200, body = \"other\" }}"
    );
    proxy.folder.write("headwater.toml", &moved);
    let answer = proxy.api_post("/api/reload", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(Client::connect(free).get("/", &[]).text(), "other");
}

#[test]
fn a_pool_that_did_not_change_keeps_its_connections_and_its_health() {
    let origin = Origin::answering(|_| ok(""));
    let setup = Setup::of(&[&origin]).pool_lines("health = { path = \"/up\", interval = \"1h\" }");
    let proxy = setup.start();
    proxy.wait_for_state(&origin, "usable");
    let health = || proxy.endpoint(&origin)["health"].as_str().unwrap().to_owned();
    eventually("the verdict", || (health() == "healthy").then_some(()));
    proxy.get("/", &[]);
    let before = origin.connections();
    proxy.reload(&setup.route("timeout = \"30s\"").text(
        "[[route]]\npaths = [\"/more\"]\nrespond = { status = 200 }\n\
         [pool.more]\nendpoints = [\"127.0.0.1:1\"]",
    ));
    assert_eq!(health(), "healthy");
    assert_eq!(proxy.get("/", &[]).status, 200);
    assert_eq!(origin.connections(), before, "the resting connection was used");
    assert_eq!(origin.count_of("/up"), 1);
}

#[test]
fn a_pool_that_changed_keeps_the_endpoints_that_stay() {
    let (stays, leaves) = (Origin::answering(|_| ok("")), Origin::answering(|_| ok("")));
    let setup = Setup::of(&[&stays, &leaves]).pool_lines("balance = \"round_robin\"");
    let proxy = setup.start();
    for _ in 0..2 {
        proxy.get("/", &[]);
    }
    proxy.reload(&setup.pool(&[&stays], ""));
    for _ in 0..3 {
        assert_eq!(proxy.get("/", &[]).status, 200);
    }
    assert_eq!((stays.connections(), stays.count(), leaves.count()), (1, 4, 1));
    // Connections to what left are not kept.
    leaves.wait_for_closed(1);
    let series = format!("headwater_endpoint_healthy{{pool=\"app\",endpoint=\"{leaves}\"}}");
    assert!(!proxy.api_get("/metrics").text().contains(&series), "its series are dropped");
}

#[test]
fn what_is_read_at_the_start_only_is_warned_about() {
    let setup = saying("old");
    let proxy = setup.start();
    let changed = saying("new").process("workers = 3").text("[admin]\nbind = \"127.0.0.1:1\"");
    let answer = proxy.try_reload(&changed);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let warnings = answer.json()["warnings"].to_string();
    for key in ["process.workers", "admin.bind"] {
        assert!(warnings.contains(key), "{warnings}");
    }
    assert_eq!(proxy.get("/", &[]).text(), "new");
    assert_eq!(proxy.api_get("/api/status").json()["workers"], 1);
}

#[test]
fn no_request_is_lost_while_the_configuration_changes() {
    let origin = Origin::answering(|_| ok("fine"));
    let setup = Setup::of(&[&origin]).process("workers = 2");
    let proxy = setup.start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut kept = proxy.connect();
                    let mut count = 0;
                    while !done.load(Ordering::SeqCst) {
                        assert_eq!(kept.get("/", &[]).text(), "fine");
                        assert_eq!(proxy.get("/", &[]).text(), "fine");
                        count += 2;
                    }
                    count
                })
            })
            .collect();
        for number in 0..20 {
            let side = format!("[listener.side-{number}]\nbind = \"127.0.0.1:0\"");
            let changed =
                setup.clone().text(&side).pool_lines(&format!("keepalive = \"{}s\"", 30 + number));
            match number % 5 {
                4 => assert_eq!(proxy.try_reload(&changed.text("broken")).status, 422),
                _ => proxy.reload(&changed),
            }
        }
        done.store(true, Ordering::SeqCst);
        for thread in asking {
            assert!(thread.join().unwrap() > 10);
        }
    });
    assert_eq!(proxy.metric(GENERATION), 17.0);
}

#[test]
fn the_log_of_requests_can_move() {
    let proxy = saying("x").start();
    proxy.get("/first", &[]);
    proxy.wait_for_access("/first");
    proxy.reload(&saying("x").log("access.to = \"moved.log\""));
    proxy.get("/second", &[]);
    proxy.wait_for_line("moved.log", "/second");
}

#[test]
fn what_waits_for_a_restart_is_said_as_long_as_it_does() {
    let setup = saying("old").process("workers = 1");
    let proxy = setup.start();
    let warnings = |setup: &Setup| {
        let answer = proxy.try_reload(setup);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["warnings"].to_string().contains("process.workers")
    };
    let more = saying("old").process("workers = 3");
    assert!(warnings(&more));
    assert_eq!(proxy.api_get("/api/config").json()["process"]["workers"], 1, "what runs");
    assert!(warnings(&more), "asked again");
    assert!(warnings(&saying("new").process("workers = 3")), "with another change");
    assert!(!warnings(&saying("new").process("workers = 1")), "as it runs");
    assert_eq!(proxy.api_get("/api/config").json()["process"]["workers"], 1);
}

#[test]
fn whoever_asks_after_the_watcher_is_told_the_same() {
    let proxy = saying("old").start();
    proxy.folder.write("headwater.toml", saying("new").process("workers = 3").to_string());
    eventually("the watcher to take it", || (proxy.generation() == 2).then_some(()));
    let answer = proxy.api_post("/api/reload", "").json();
    assert_eq!(answer["changed"], false);
    assert!(answer["warnings"].to_string().contains("process.workers"), "{answer}");
    proxy.folder.write("headwater.toml", "broken");
    proxy.wait_for_log("configuration refused");
    assert_eq!(proxy.api_post("/api/reload", "").status, 422, "the watcher has seen it before");
}

#[test]
fn the_command_fails_with_the_errors_of_a_broken_file() {
    let proxy = saying("old").start();
    let admin = proxy.admin().to_string();
    let path = proxy.folder.join("headwater.toml");
    let reload = |text: String| {
        proxy.folder.write("headwater.toml", text);
        run_to_end(&["reload", "--admin", &admin, "-c"], &path)
    };
    let taken = reload(saying("new").process("workers = 3").to_string());
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
    assert!(taken.stderr.contains("warning: process.workers is read at start"), "{}", taken.stderr);
    assert_eq!(proxy.get("/", &[]).text(), "new");
    let refused = reload(saying("newer").text("nonsense = 1").to_string());
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains(": error: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("nonsense"), "{}", refused.stderr);
    assert_eq!(proxy.get("/", &[]).text(), "new");
    std::fs::remove_file(&path).unwrap();
    let missing = run_to_end(&["reload", "--admin", &admin, "-c"], &path);
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
}

#[test]
fn the_command_finds_the_process_by_its_configuration() {
    let folder = Folder::new();
    let address = folder.join("admin.sock");
    let admin = format!("[admin]\nbind = \"unix:{}\"\ntoken_file = \"token\"", address.display());
    folder.write("token", "s3cret\n");
    let mut proxy = saying("old").text(&admin).start_in(folder);
    let path = proxy.folder.write("headwater.toml", saying("new").text(&admin).to_string());
    let taken = run_to_end(&["reload", "-c"], &path);
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
    assert_eq!(proxy.get("/", &[]).text(), "new");
    proxy.terminate();
    assert_eq!(proxy.exit_code(), 0);
    let nobody = run_to_end(&["reload", "-c"], &path);
    assert_eq!(nobody.code, Some(1), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("no answer from unix:"), "{}", nobody.stderr);
}
