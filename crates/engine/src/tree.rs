//! `images --tree`: images by what they stand on. Each is drawn on the image whose layers it begins with.

use std::collections::BTreeMap;

use serde::Serialize;
use store::{Digest, Fault};

use crate::Engine;
use crate::find::familiar;

/// Layers that stand on those of the node above, and who ends there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// Images whose topmost layer is this node's, by name; none where images part that share layers nobody named.
    pub images: Vec<String>,
    /// Ids of these images, in the same order.
    pub ids: Vec<String>,
    /// Chain ID of the topmost layer; none of images without layers.
    pub chain_id: Option<String>,
    /// How many layers it adds to the node above.
    pub layers: u64,
    /// Bytes that these take on disk.
    pub bytes: u64,
    /// What stands on it.
    pub above: Vec<Node>,
}

/// A layer in a chain, and what stands on it.
#[derive(Default)]
struct Chain {
    bytes: u64,
    images: Vec<(String, String)>,
    above: BTreeMap<Digest, Chain>,
}

impl Engine {
    /// The images of the namespace by what they stand on.
    ///
    /// # Errors
    /// Disk or database.
    pub fn image_tree(&self) -> Result<Vec<Node>, Fault> {
        let mut root = Chain::default();
        for image in self.store.images(self.ns())? {
            let mut at = &mut root;
            for layer in self.store.manifest_layers(&image.manifest.digest)? {
                at = at.above.entry(layer.chain_id).or_default();
                if at.bytes == 0 {
                    at.bytes = self.store.layer(layer.layer_n)?.map_or(0, |row| row.usage.bytes);
                }
            }
            at.images.push((familiar(&image.name), image.id.to_string()));
        }
        let (images, ids): (Vec<_>, Vec<_>) = std::mem::take(&mut root.images).into_iter().unzip();
        let mut nodes = root.nodes();
        if !images.is_empty() {
            let empty = Node {
                images,
                ids,
                ..Node::default()
            };
            nodes.insert(0, empty);
        }
        Ok(nodes)
    }
}

impl Chain {
    fn nodes(self) -> Vec<Node> {
        let mut nodes: Vec<Node> = self.above.into_iter().map(|(id, chain)| chain.node(id)).collect();
        nodes.sort_by(|a, b| (a.first_name(), &a.chain_id).cmp(&(b.first_name(), &b.chain_id)));
        nodes
    }

    /// This layer, with those above it that nothing parts from it.
    fn node(mut self, mut chain_id: Digest) -> Node {
        let (mut layers, mut bytes) = (1, self.bytes);
        while self.images.is_empty() && self.above.len() == 1 {
            let Some((id, next)) = std::mem::take(&mut self.above).into_iter().next() else {
                break;
            };
            (chain_id, self) = (id, next);
            layers += 1;
            bytes += self.bytes;
        }
        let (images, ids) = std::mem::take(&mut self.images).into_iter().unzip();
        Node {
            images,
            ids,
            chain_id: Some(chain_id.to_string()),
            layers,
            bytes,
            above: self.nodes(),
        }
    }
}

impl Node {
    /// The first name in it or above.
    fn first_name(&self) -> Option<&str> {
        let above = || self.above.iter().filter_map(Node::first_name).min();
        self.images.first().map(String::as_str).or_else(above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &mut Chain, name: &str, layers: &[&str]) {
        let (mut at, mut below) = (root, None);
        for layer in layers {
            let chain_id = Digest::chain(below.as_ref(), &Digest::of(layer));
            at = at.above.entry(chain_id).or_default();
            at.bytes = 10;
            below = Some(chain_id);
        }
        at.images.push((name.into(), String::new()));
    }

    fn shown(nodes: &[Node]) -> String {
        let one = |node: &Node| {
            let above = match node.above.is_empty() {
                true => String::new(),
                false => format!("[{}]", shown(&node.above)),
            };
            format!("{}+{}{above}", node.images.join(","), node.layers)
        };
        nodes.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn layers_that_nothing_parts_are_one_node() {
        let mut root = Chain::default();
        put(&mut root, "debian", &["d1", "d2"]);
        put(&mut root, "debian:12", &["d1", "d2"]);
        put(&mut root, "app", &["d1", "d2", "a1", "a2"]);
        put(&mut root, "tool", &["d1", "d2", "t"]);
        put(&mut root, "x", &["nobody's", "x"]);
        put(&mut root, "y", &["nobody's", "y1", "y2"]);
        assert_eq!(
            shown(&root.nodes()),
            "debian,debian:12+2[app+2 tool+1] +1[x+1 y+2]"
        );
    }
}
