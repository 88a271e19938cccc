//! A client that reaches for its builder when its build is over already.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cofferdam_tests::{Client, Context, Server};
use serde_json::json;

/// First byte of a TLS connection.
const HANDSHAKE: u8 = 22;

/// In this time the client reports its health once more, and connections of the ended build have been cut.
const REPORTED: Duration = Duration::from_secs(9);

/// Where connections to builders wait until they are let through.
#[derive(Default)]
struct Gate {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, open)| !*open).unwrap());
    }

    fn wait_for_one(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |(come, _)| *come == 0).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// A way to the server on which calls of the API pass at once, and connections to builders at the gate.
fn way(server: &Server, gate: &Arc<Gate>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let far = server.url().strip_prefix("http://").unwrap().to_owned();
    let gate = Arc::clone(gate);
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let (far, gate) = (far.clone(), Arc::clone(&gate));
            std::thread::spawn(move || carry(&near, &far, &gate));
        }
    });
    address
}

fn carry(near: &TcpStream, far: &str, gate: &Gate) {
    let mut first = [0];
    if !near.peek(&mut first).is_ok_and(|count| count > 0) {
        return;
    }
    if first[0] == HANDSHAKE {
        gate.pass();
    }
    let far = TcpStream::connect(far).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            copy(&mut &*near, &mut &far).ok();
            far.shutdown(Shutdown::Write).ok();
        });
        copy(&mut &far, &mut &*near).ok();
        near.shutdown(Shutdown::Both).ok();
    });
}

#[test]
fn a_client_that_comes_after_the_end_is_told_so_at_once() {
    let server = Server::start();
    let project = server.project("late");
    let context = Context::small();
    let gate = Arc::<Gate>::default();
    let address = way(&server, &gate);
    let depot = || {
        Client::depot(&format!("http://{address}"))
            .token(&project.token)
            .args("build --progress plain --project")
            .arg(&project.id)
            .arg(context.path())
    };
    let build = depot().spawn();
    gate.wait_for_one();
    let id = server.newest_id(&project);
    let method = "cofferdam.server.v1.BuildService/CancelBuild";
    let _ = server.call(method, &json!({ "buildId": id })).ok();
    // It must not hear from that report that it is to stop: it would close the connection that it waits for.
    std::thread::sleep(REPORTED);
    gate.open();
    let said = build.finish().failure();
    assert!(said.contains("canceled: canceled through the API"), "{said}");
    // Control: on the same way a build that is left alone succeeds.
    let _ = depot().success();
}
