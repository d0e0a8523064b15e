//! What kubelet asks of a containerd: images, pods and their containers, over the interface `runtime.v1`.
//!
//! The messages are written by hand from its `api.proto`, as far as tests need them: numbers and types are its own. A field
//! that is not here is passed over, as protobuf has it.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use grpc::{Client, ClientError};
use prost::Message;

/// How long a call may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// `PullImageRequest`, `ImageStatusRequest` and `RemoveImageRequest` begin with the image.
#[derive(Clone, PartialEq, prost::Message)]
struct OfImage {
    #[prost(message, tag = "1")]
    image: Option<ImageSpec>,
}

/// Whatever is an identifier alone, as a request or an answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

/// `PodSandboxMetadata`; that of a container is its name alone.
#[derive(Clone, PartialEq, prost::Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamespaceOption {
    /// 2 is the node's.
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SecurityContext {
    #[prost(message, tag = "1")]
    namespaces: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxPod {
    #[prost(message, tag = "2")]
    security: Option<SecurityContext>,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, prost::Message)]
struct PodConfig {
    #[prost(message, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "3")]
    logs: String,
    #[prost(message, tag = "8")]
    linux: Option<LinuxPod>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RunPod {
    #[prost(message, tag = "1")]
    config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxContainerSecurity {
    #[prost(message, tag = "3")]
    namespaces: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxContainer {
    #[prost(message, tag = "2")]
    security: Option<LinuxContainerSecurity>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerConfig {
    #[prost(message, tag = "1")]
    metadata: Option<Id>,
    #[prost(message, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(string, tag = "11")]
    log: String,
    #[prost(message, tag = "15")]
    linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, tag = "3")]
    of: Option<PodConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExecSync {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    words: Vec<String>,
    #[prost(int64, tag = "3")]
    seconds: i64,
}

/// How a command in a container ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Said {
    /// What it printed.
    #[prost(bytes = "vec", tag = "1")]
    pub out: Vec<u8>,
    /// What it complained of.
    #[prost(bytes = "vec", tag = "2")]
    pub err: Vec<u8>,
    /// Its exit code.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Filesystem {
    #[prost(message, tag = "2")]
    place: Option<Id>,
    #[prost(message, tag = "3")]
    bytes: Option<Number>,
    #[prost(message, tag = "4")]
    inodes: Option<Number>,
}

/// What images or a container's own files take.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// The directory on whose file system they lie, or what containerd takes for it.
    pub place: String,
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl From<Filesystem> for Taken {
    fn from(told: Filesystem) -> Taken {
        let number = |number: Option<Number>| number.unwrap_or_default().value;
        Taken {
            place: told.place.unwrap_or_default().id,
            bytes: number(told.bytes),
            inodes: number(told.inodes),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageFilesystems {
    #[prost(message, repeated, tag = "1")]
    images: Vec<Filesystem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerStats {
    #[prost(message, tag = "4")]
    writable: Option<Filesystem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatsAnswer {
    #[prost(message, tag = "1")]
    stats: Option<ContainerStats>,
}

/// A pod that runs.
#[derive(Debug)]
pub struct Pod {
    id: String,
    config: PodConfig,
}

/// A node as kubelet sees it. Every call must end well.
pub struct Cri(RefCell<Client>);

fn spec(image: &str) -> Option<ImageSpec> {
    let image = image.to_owned();
    Some(ImageSpec { image })
}

const NODE: NamespaceOption = NamespaceOption { network: 2 };

impl Cri {
    /// Of the containerd whose socket this is.
    pub fn new(socket: &Path) -> Cri {
        Cri(RefCell::new(Client::connect(socket).unwrap()))
    }

    #[track_caller]
    fn try_ask<M: Message + Default>(
        &self,
        service: &str,
        method: &str,
        message: &impl Message,
    ) -> Result<M, ClientError> {
        let path = format!("/runtime.v1.{service}/{method}");
        let answer = self
            .0
            .borrow_mut()
            .call(&path, &[], &message.encode_to_vec(), PATIENCE)?;
        Ok(M::decode(&answer[0][..]).unwrap())
    }

    #[track_caller]
    fn ask<M: Message + Default>(&self, service: &str, method: &str, message: &impl Message) -> M {
        self.try_ask(service, method, message)
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Brings an image.
    #[track_caller]
    pub fn pull(&self, image: &str) {
        let request = OfImage { image: spec(image) };
        let _: Id = self.ask("ImageService", "PullImage", &request);
    }

    /// Removes an image.
    #[track_caller]
    pub fn remove_image(&self, image: &str) {
        let request = OfImage { image: spec(image) };
        let _: Nothing = self.ask("ImageService", "RemoveImage", &request);
    }

    /// What images take.
    #[track_caller]
    pub fn images_take(&self) -> Vec<Taken> {
        let told: ImageFilesystems = self.ask("ImageService", "ImageFsInfo", &Nothing {});
        told.images.into_iter().map(Taken::from).collect()
    }

    /// Makes a pod that has the node's network; its containers' logs lie in `logs`.
    #[track_caller]
    pub fn run_pod(&self, name: &str, logs: &Path) -> Pod {
        let config = PodConfig {
            metadata: Some(Metadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "default".to_owned(),
            }),
            logs: logs.display().to_string(),
            linux: Some(LinuxPod {
                security: Some(SecurityContext {
                    namespaces: Some(NODE),
                }),
            }),
        };
        let request = RunPod {
            config: Some(config.clone()),
        };
        let Id { id } = self.ask("RuntimeService", "RunPodSandbox", &request);
        Pod { id, config }
    }

    /// Makes a container in a pod and starts it; its identifier.
    #[track_caller]
    pub fn start(&self, pod: &Pod, name: &str, image: &str, words: &[&str]) -> String {
        let request = CreateContainer {
            pod: pod.id.clone(),
            config: Some(ContainerConfig {
                metadata: Some(Id { id: name.to_owned() }),
                image: spec(image),
                command: words.iter().map(|word| (*word).to_owned()).collect(),
                log: format!("{name}.log"),
                linux: Some(LinuxContainer {
                    security: Some(LinuxContainerSecurity {
                        namespaces: Some(NODE),
                    }),
                }),
            }),
            of: Some(pod.config.clone()),
        };
        let made: Id = self.ask("RuntimeService", "CreateContainer", &request);
        let _: Nothing = self.ask("RuntimeService", "StartContainer", &made);
        made.id
    }

    /// Runs a command in a container.
    #[track_caller]
    pub fn exec(&self, container: &str, words: &[&str]) -> Said {
        let request = ExecSync {
            container: container.to_owned(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            seconds: 30,
        };
        self.ask("RuntimeService", "ExecSync", &request)
    }

    /// What a container's own files take, as far as is known yet: containerd asks for it now and then.
    #[track_caller]
    pub fn takes(&self, container: &str) -> Option<Taken> {
        let id = container.to_owned();
        let told: StatsAnswer = self.ask("RuntimeService", "ContainerStats", &Id { id });
        let taken = Taken::from(told.stats?.writable?);
        (taken.inodes > 0).then_some(taken)
    }

    /// Kills a container and removes it.
    #[track_caller]
    pub fn remove(&self, container: &str) {
        let id = container.to_owned();
        let request = Id { id };
        let _: Nothing = self.ask("RuntimeService", "StopContainer", &request);
        let _: Nothing = self.ask("RuntimeService", "RemoveContainer", &request);
    }

    /// Ends a pod and removes it.
    #[track_caller]
    pub fn remove_pod(&self, pod: Pod) {
        let request = Id { id: pod.id };
        let _: Nothing = self.ask("RuntimeService", "StopPodSandbox", &request);
        let _: Nothing = self.ask("RuntimeService", "RemovePodSandbox", &request);
    }
}
