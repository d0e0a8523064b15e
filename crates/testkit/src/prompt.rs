//! A snapshotter that answers at once and does nothing: what is left of a call then is its way.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ::snapshotter::wire::{self, SERVICE};
use grpc::{Call, Code, Lane, Limits, Reply, Server, Service, Status};
use prost::Message;

/// It knows which keys there are and of which kind, since containerd asks.
#[derive(Default)]
struct Prompt {
    kinds: Mutex<HashMap<String, wire::Kind>>,
}

impl Prompt {
    fn answer(&self, call: &Call) -> Result<Vec<u8>, prost::DecodeError> {
        let mut kinds = self.kinds.lock().unwrap();
        let message = &call.message[..];
        let method = call.path.strip_prefix(SERVICE).unwrap_or_default();
        let mounts = || {
            let mount = wire::Mount {
                kind: "bind".into(),
                source: "/nonexistent".into(),
                options: vec!["rbind".into(), "rw".into()],
                ..wire::Mount::default()
            };
            wire::MountsResponse { mounts: vec![mount] }.encode_to_vec()
        };
        Ok(match method {
            "Prepare" | "View" => {
                let asked = wire::PrepareRequest::decode(message)?;
                kinds.insert(asked.key, wire::Kind::Active);
                mounts()
            }
            "Mounts" => mounts(),
            "Commit" => {
                let asked = wire::CommitRequest::decode(message)?;
                kinds.remove(&asked.key);
                kinds.insert(asked.name, wire::Kind::Committed);
                Vec::new()
            }
            "Remove" => {
                kinds.remove(&wire::KeyRequest::decode(message)?.key);
                Vec::new()
            }
            "Stat" => {
                let name = wire::KeyRequest::decode(message)?.key;
                let kind = kinds.get(&name).copied().unwrap_or(wire::Kind::Active);
                let time = Some(wire::Timestamp { seconds: 1, nanos: 0 });
                let info = wire::Info {
                    name,
                    kind: kind as i32,
                    created_at: time,
                    updated_at: time,
                    ..wire::Info::default()
                };
                wire::InfoResponse { info: Some(info) }.encode_to_vec()
            }
            _ => Vec::new(),
        })
    }
}

impl Service for Prompt {
    fn lane(&self, _path: &str) -> Lane {
        Lane::Read
    }

    fn call(&self, call: &Call, reply: &mut Reply<'_>) -> Result<(), Status> {
        // A listing of nothing has no message.
        if !call.path.ends_with("/List") {
            let answer = self.answer(call);
            let _ =
                reply.send(answer.map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?);
        }
        Ok(())
    }
}

/// Serves one at a socket, as long as the process lives.
pub fn serve(socket: &Path) {
    let server = Server::new(Arc::new(Prompt::default()), Limits::default()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        // Nothing is ever written to it.
        let (stop, _never) = std::io::pipe().unwrap();
        server.serve(&listener, &stop, || ()).unwrap();
    });
}
