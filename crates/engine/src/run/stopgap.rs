//! Until `runtime::spec` is there: the specification with the runtime crate's plain defaults.
#![allow(missing_docs, dead_code, unreachable_pub)]
use oci_spec::runtime::*;
use runtime::options::ContainerOptions;
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: String,
}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);
pub(super) fn command(o: &ContainerOptions, i: &Image) -> Vec<String> {
    let (e, c) = match &o.entrypoint {
        Some(e) => (e.clone(), vec![]),
        None => (i.entrypoint.clone(), i.cmd.clone()),
    };
    let mut v = e;
    if o.command.is_empty() {
        v.extend(c)
    } else {
        v.extend(o.command.clone())
    }
    v
}
pub(super) fn build(o: &ContainerOptions, i: &Image, _root: &sys::Dir) -> Result<Spec, BuildError> {
    let mut s = Spec::default();
    let mut p = s.process().clone().unwrap();
    p.set_args(Some(command(o, i)));
    p.set_terminal(Some(o.tty));
    p.set_cwd(o.workdir.clone().unwrap_or("/".into()).into());
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_string()];
    env.extend(i.env.clone());
    env.extend(
        o.env
            .iter()
            .filter_map(|(k, v)| v.as_ref().map(|v| format!("{k}={v}"))),
    );
    p.set_env(Some(env));
    p.set_rlimits(None);
    s.set_process(Some(p));
    s.set_hostname(o.hostname.clone());
    let mut root = Root::default();
    root.set_path("rootfs".into());
    root.set_readonly(Some(o.read_only));
    s.set_root(Some(root));
    let mut mounts = s.mounts().clone().unwrap_or_default();
    for m in &o.mounts {
        let mut x = Mount::default();
        x.set_destination(m.destination.clone());
        x.set_options(Some(m.options.clone()));
        match &m.kind {
            runtime::options::mounts::MountKind::Bind { source } => {
                x.set_typ(Some("bind".into()));
                x.set_source(Some(source.clone()));
            }
            _ => {
                x.set_typ(Some("tmpfs".into()));
                x.set_source(Some("tmpfs".into()));
            }
        }
        mounts.push(x);
    }
    s.set_mounts(Some(mounts));
    Ok(s)
}
