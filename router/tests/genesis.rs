//! The birth of a cluster: agreement, crashes at every durable step, and every refusal's words.

mod peer_support;

use bytes::Bytes;
use flotilla_router::genesis::{
    Genesis, GenesisError, GenesisOptions, GenesisState, GenesisStore, StoreError, agree,
};
use flotilla_router::peer::{PeerMetrics, TcpTransport, TransportOptions};
use flotilla_shard::{GroupId, NodeId, ReplicaId};
use peer_support::{envelope, incarnation, listen, read_envelope, recorder, within};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

/// When a store fails, as if the node had crashed there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    BeforePrepared,
    AfterPrepared,
    BeforeCommitted,
    AfterCommitted,
}

/// The directories of all nodes: what is on their disks.
#[derive(Clone, Default)]
struct Disks(Arc<Mutex<BTreeMap<u64, GenesisState>>>);

impl Disks {
    fn state(&self, node: u64) -> GenesisState {
        self.0.lock().unwrap().get(&node).cloned().unwrap_or_default()
    }

    fn wipe(&self, node: u64) {
        self.0.lock().unwrap().remove(&node);
    }
}

struct Store {
    node: u64,
    disks: Disks,
    crash: Option<Crash>,
}

impl Store {
    fn save(&mut self, state: GenesisState, before: Crash, after: Crash) -> Result<(), StoreError> {
        if self.crash == Some(before) {
            return Err(format!("{before:?}").into());
        }
        self.disks.0.lock().unwrap().insert(self.node, state);
        if self.crash == Some(after) {
            return Err(format!("{after:?}").into());
        }
        Ok(())
    }
}

impl GenesisStore for Store {
    fn load(&self) -> Result<GenesisState, StoreError> {
        Ok(self.disks.state(self.node))
    }

    fn save_prepared(&mut self, genesis: &Genesis) -> Result<(), StoreError> {
        assert_eq!(self.disks.state(self.node), GenesisState::Blank, "prepared twice");
        let state = GenesisState::Prepared(genesis.clone());
        self.save(state, Crash::BeforePrepared, Crash::AfterPrepared)
    }

    fn save_committed(&mut self, genesis: &Genesis) -> Result<(), StoreError> {
        // Nobody commits before everybody has prepared the very same.
        for node in genesis.nodes.keys() {
            assert_eq!(self.disks.state(node.0).genesis(), Some(genesis), "node {node}");
        }
        let state = GenesisState::Committed(genesis.clone());
        self.save(state, Crash::BeforeCommitted, Crash::AfterCommitted)
    }
}

/// Three listed nodes and their ports; a node that is not running has a bound, silent port.
struct Cluster {
    disks: Disks,
    listeners: BTreeMap<u64, TcpListener>,
    peers: BTreeMap<NodeId, String>,
}

impl Cluster {
    fn new() -> Cluster {
        let (mut listeners, mut peers) = (BTreeMap::new(), BTreeMap::new());
        for node in 1..=3 {
            let (listener, address) = listen();
            listeners.insert(node, listener);
            peers.insert(NodeId(node), address);
        }
        Cluster { disks: Disks::default(), listeners, peers }
    }

    fn options(&self, me: u64) -> GenesisOptions {
        GenesisOptions {
            me: NodeId(me),
            incarnation: incarnation(me),
            cluster_name: "harbour".to_owned(),
            peers: self.peers.clone(),
            split_keys: Some(vec![Bytes::from("g"), Bytes::from("p")]),
        }
    }

    /// One start of a node. Once it has agreed, its transport runs, as it would.
    async fn start(
        &self,
        options: GenesisOptions,
        crash: Option<Crash>,
    ) -> Result<Running, GenesisError> {
        let me = options.me;
        let listener = self.listeners.get(&me.0).unwrap_or(&self.listeners[&1]);
        let mut store = Store { node: me.0, disks: self.disks.clone(), crash };
        let genesis = agree(listener, options.clone(), &mut store).await?;
        assert_eq!(self.disks.state(me.0), GenesisState::Committed(genesis.clone()));
        let transport = TcpTransport::start(
            TransportOptions::for_cluster(me, options.incarnation, 1, &genesis, &options.peers),
            listener.try_clone().unwrap(),
            recorder().0,
            vec![Handle::current()],
            PeerMetrics::new(),
        );
        Ok(Running { genesis, _transport: transport.unwrap() })
    }

    /// Starts a node, and starts it again if it crashes.
    async fn start_again(&self, me: u64, crash: Option<Crash>) -> Running {
        match self.start(self.options(me), crash).await {
            Ok(running) => running,
            Err(GenesisError::Store { .. }) => self.start(self.options(me), None).await.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }

    async fn born(&self) -> Vec<Running> {
        let all = async {
            let (one, two, three) = tokio::join!(
                self.start_again(1, None),
                self.start_again(2, None),
                self.start_again(3, None)
            );
            vec![one, two, three]
        };
        within("a birth", all).await
    }
}

struct Running {
    genesis: Genesis,
    _transport: Arc<TcpTransport>,
}

fn says(error: &GenesisError, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn three_nodes_agree() {
    let cluster = Cluster::new();
    let nodes = cluster.born().await;
    let genesis = &nodes[0].genesis;
    assert!(nodes.iter().all(|node| node.genesis == *genesis));
    assert_eq!(genesis.cluster_name, "harbour");
    let incarnations: Vec<_> = genesis.nodes.values().map(|birth| birth.incarnation).collect();
    assert_eq!(incarnations, [100, 200, 300]);

    let descriptors = genesis.descriptors();
    let groups: Vec<_> = descriptors.iter().map(|shard| shard.group).collect();
    assert_eq!(groups, [GroupId(1), GroupId(2), GroupId(3)]);
    assert_eq!(descriptors[0].range.start, "");
    assert_eq!(descriptors[0].range.end.as_deref(), Some(&b"g"[..]));
    assert_eq!(descriptors[2].range.start, "p");
    assert_eq!(descriptors[2].range.end, None);
    assert_eq!(descriptors[1].node_of(ReplicaId(3)), Some(NodeId(3)));
}

#[tokio::test]
async fn two_births_of_one_name_have_two_ids() {
    let (first, second) = (Cluster::new().born().await, Cluster::new().born().await);
    assert_ne!(first[0].genesis.cluster_id, second[0].genesis.cluster_id);
}

#[tokio::test]
async fn a_single_node_needs_nobody() {
    let (listener, address) = listen();
    let disks = Disks::default();
    let options = GenesisOptions {
        me: NodeId(7),
        incarnation: 700,
        cluster_name: "alone".to_owned(),
        peers: BTreeMap::from([(NodeId(7), address)]),
        split_keys: None,
    };
    let mut store = Store { node: 7, disks, crash: None };
    let genesis = agree(&listener, options.clone(), &mut store).await.unwrap();
    assert_eq!(genesis.descriptors().len(), 1);
    assert_eq!(agree(&listener, options, &mut store).await.unwrap(), genesis);
}

/// Each node crashes once at each of its durable steps, before and after it, and comes back.
#[tokio::test]
async fn a_crash_at_any_step_delays_and_changes_nothing() {
    let crashes = [
        Crash::BeforePrepared,
        Crash::AfterPrepared,
        Crash::BeforeCommitted,
        Crash::AfterCommitted,
    ];
    for crash in crashes {
        for victim in [None, Some(1), Some(2), Some(3)] {
            let cluster = Cluster::new();
            // `None`: all of them.
            let crash_of = |node| (victim.is_none() || victim == Some(node)).then_some(crash);
            let all = async {
                tokio::join!(
                    cluster.start_again(1, crash_of(1)),
                    cluster.start_again(2, crash_of(2)),
                    cluster.start_again(3, crash_of(3))
                )
            };
            let (one, two, three) =
                within(&format!("a birth with {crash:?} of {victim:?}"), all).await;
            assert!(one.genesis == two.genesis && two.genesis == three.genesis);
        }
    }
}

/// A node that was down while the others finished learns the end from a running one.
#[tokio::test]
async fn a_late_comer_learns_the_end() {
    let cluster = Cluster::new();
    let all = async {
        let (one, two, three) = tokio::join!(
            cluster.start_again(1, None),
            cluster.start_again(2, None),
            cluster.start(cluster.options(3), Some(Crash::BeforeCommitted))
        );
        assert!(matches!(three, Err(GenesisError::Store { .. })));
        let three = cluster.start(cluster.options(3), None).await.unwrap();
        assert!(three.genesis == one.genesis && three.genesis == two.genesis);
    };
    within("the late-comer", all).await;
}

#[tokio::test]
async fn nobody_commits_while_a_node_is_missing() {
    let cluster = Cluster::new();
    let mut one = std::pin::pin!(cluster.start(cluster.options(1), None));
    let mut two = std::pin::pin!(cluster.start(cluster.options(2), None));
    // Node 3 has a port, and takes every call without an answer: a dozen of them.
    let silent = tokio::net::TcpListener::from_std({
        let listener = cluster.listeners[&3].try_clone().unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    })
    .unwrap();
    let calls = async {
        for _ in 0..12 {
            drop(silent.accept().await.unwrap());
        }
    };
    tokio::select! {
        _ = &mut one => panic!("node 1 went on alone"),
        _ = &mut two => panic!("node 2 went on alone"),
        () = within("twelve calls", calls) => {}
    }
    drop(silent);
    assert_eq!(cluster.disks.state(1), GenesisState::Blank);
    let all = async { tokio::join!(one, two, cluster.start(cluster.options(3), None)) };
    let (one, two, three) = within("the birth", all).await;
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    assert!(one.genesis == two.genesis && two.genesis == three.genesis);
}

/// A restart finds everything in its directory, whoever else is there.
#[tokio::test]
async fn a_committed_node_starts_alone_and_at_new_addresses() {
    let mut cluster = Cluster::new();
    let nodes = cluster.born().await;
    let genesis = nodes[0].genesis.clone();
    drop(nodes);
    for address in cluster.peers.values_mut() {
        *address = address.replace("127.0.0.1", "localhost");
    }
    let mut options = cluster.options(2);
    options.split_keys = None;
    let again = within("a restart", cluster.start(options, None)).await.unwrap();
    assert_eq!(again.genesis, genesis);
}

/// Starts `wrong` as node `me` against the other two, which wait; returns its error.
async fn contradiction(cluster: &Cluster, wrong: GenesisOptions) -> GenesisError {
    let others: Vec<u64> = (1..=3).filter(|node| *node != wrong.me.0).collect();
    let refused = async {
        tokio::select! {
            wrong = cluster.start(wrong, None) => wrong.err().expect("a contradiction"),
            _ = cluster.start(cluster.options(others[0]), None) => panic!("{} went on", others[0]),
            _ = cluster.start(cluster.options(others[1]), None) => panic!("{} went on", others[1]),
        }
    };
    within("a refusal", refused).await
}

#[tokio::test]
async fn other_cluster_names_are_refused() {
    let cluster = Cluster::new();
    let wrong = GenesisOptions { cluster_name: "airport".to_owned(), ..cluster.options(3) };
    let error = contradiction(&cluster, wrong).await;
    assert!(matches!(error, GenesisError::OtherCluster { .. }));
    says(&error, &["airport", "harbour", "--cluster-name"]);
}

#[tokio::test]
async fn contradictory_peer_lists_are_refused() {
    let cluster = Cluster::new();
    let mut wrong = cluster.options(3);
    wrong.peers.insert(NodeId(4), "127.0.0.1:9".to_owned());
    let error = contradiction(&cluster, wrong).await;
    says(&error, &["contradictory peer lists", "1, 2, 3, 4", "same --peers"]);
}

#[tokio::test]
async fn other_shards_than_the_others_are_refused() {
    let cluster = Cluster::new();
    let mut wrong = cluster.options(2);
    wrong.split_keys = Some(vec![Bytes::from("m")]);
    let error = contradiction(&cluster, wrong).await;
    says(&error, &["2 shards (split at \"m\")", "3 shards", "node 1", "--shards or --split-at"]);
}

/// The correction of a contradiction completes the birth; the others never had to restart.
#[tokio::test]
async fn a_corrected_node_completes_the_birth() {
    let cluster = Cluster::new();
    let all = async {
        let corrected = async {
            let mut wrong = cluster.options(3);
            wrong.split_keys = None;
            wrong.cluster_name = "typo".to_owned();
            let error = cluster.start(wrong, None).await.err().expect("refused");
            says(&error, &["typo"]);
            cluster.start(GenesisOptions { split_keys: None, ..cluster.options(3) }, None).await
        };
        tokio::join!(cluster.start_again(1, None), cluster.start_again(2, None), corrected)
    };
    let (one, two, three) = within("the birth", all).await;
    assert!(one.genesis == two.genesis && two.genesis == three.unwrap().genesis);
}

#[tokio::test]
async fn other_shards_than_at_birth_are_refused() {
    let cluster = Cluster::new();
    drop(cluster.born().await);
    let wrong = GenesisOptions { split_keys: Some(Vec::new()), ..cluster.options(2) };
    let error = cluster.start(wrong, None).await.err().expect("refused");
    says(&error, &["1 shard", "3 shards", "this node's data directory", "at the cluster's birth"]);
}

#[tokio::test]
async fn a_directory_of_another_cluster_or_node_is_refused() {
    let cluster = Cluster::new();
    drop(cluster.born().await);
    let wrong = GenesisOptions { cluster_name: "airport".to_owned(), ..cluster.options(1) };
    says(&cluster.start(wrong, None).await.err().unwrap(), &["data directory", "harbour"]);
    let wrong = GenesisOptions { incarnation: 5, ..cluster.options(1) };
    says(&cluster.start(wrong, None).await.err().unwrap(), &["data directory", "vote twice"]);
}

/// Any node whose directory is new meets a cluster that knew the old one: the proposer, too.
#[tokio::test]
async fn a_blank_directory_meeting_those_who_knew_it_is_refused() {
    for victim in 1..=3 {
        let cluster = Cluster::new();
        let mut nodes = cluster.born().await;
        drop(nodes.remove(victim as usize - 1));
        cluster.disks.wipe(victim);
        let wiped = GenesisOptions { incarnation: 999, ..cluster.options(victim) };
        let started = within("a refusal", cluster.start(wiped, None)).await;
        let error = started.err().expect("refused");
        assert!(matches!(error, GenesisError::OtherIncarnation { .. }), "{error}");
        says(&error, &["vote twice", "Restore the original directory", "membership changes"]);
        assert_eq!(cluster.disks.state(victim), GenesisState::Blank);

        // The same identity without the record is as bad.
        let forgotten = within("a refusal", cluster.start(cluster.options(victim), None)).await;
        says(&forgotten.err().expect("refused"), &["lost durable data"]);
    }
}

#[tokio::test]
async fn a_stranger_to_the_cluster_is_refused() {
    let mut cluster = Cluster::new();
    let _nodes = cluster.born().await;
    let (listener, address) = listen();
    cluster.listeners.insert(4, listener);
    cluster.peers.insert(NodeId(4), address);
    let error = within("a refusal", cluster.start(cluster.options(4), None)).await;
    says(&error.err().unwrap(), &["node 4 is not a member", "members: 1, 2, 3", "--node-id"]);
}

#[tokio::test]
async fn two_nodes_of_one_id_are_refused() {
    let mut cluster = Cluster::new();
    // A second node 2 on a port of its own; its list is otherwise the same.
    let (impostor_port, impostor_address) = listen();
    let mut wrong = cluster.options(2);
    wrong.incarnation = 222;
    wrong.peers.insert(NodeId(2), impostor_address);
    cluster.listeners.insert(22, impostor_port);
    let mut store = Store { node: 22, disks: cluster.disks.clone(), crash: None };
    let refused = async {
        tokio::select! {
            error = agree(&cluster.listeners[&22], wrong, &mut store) => error.err().unwrap(),
            _ = cluster.start(cluster.options(1), None) => panic!("node 1 went on"),
            _ = cluster.start(cluster.options(2), None) => panic!("node 2 went on"),
        }
    };
    let error = within("a refusal", refused).await;
    says(&error, &["two nodes claim the id 2", "--node-id"]);
}

#[tokio::test]
async fn a_wrong_address_is_refused() {
    let cluster = Cluster::new();
    let mut wrong = cluster.options(1);
    let own = wrong.peers[&NodeId(1)].clone();
    let second = wrong.peers.insert(NodeId(2), own.clone()).unwrap();
    wrong.peers.insert(NodeId(1), second);
    let error = within("a refusal", cluster.start(wrong, None)).await.err().unwrap();
    assert!(matches!(error, GenesisError::WrongAddress { .. }), "{error}");
    says(&error, &[own.as_str(), "listed for node 2", "this node itself"]);
}

#[tokio::test]
async fn another_format_version_is_refused() {
    let cluster = Cluster::new();
    let future = async {
        let listener = cluster.listeners[&2].try_clone().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let (kind, _) = read_envelope(&mut stream).await.unwrap();
        assert_eq!(kind, 4);
        stream.write_all(&envelope(peer_support::VERSION, 4, &99u32.to_le_bytes())).await.unwrap();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        started = within("a refusal", cluster.start(cluster.options(1), None)) => started.err(),
        () = future => None,
    };
    says(&error.unwrap(), &["node 2", "format version 99", "releases of the same format"]);
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let cluster = Cluster::new();
    let refused = async |change: &dyn Fn(&mut GenesisOptions)| {
        let mut options = cluster.options(2);
        change(&mut options);
        cluster.start(options, None).await.err().expect("refused")
    };
    let keys = |keys: &[&'static str]| Some(keys.iter().map(|key| Bytes::from(*key)).collect());
    says(&refused(&|o| o.split_keys = keys(&["b", "a"])).await, &["must ascend", "\"a\""]);
    says(&refused(&|o| o.split_keys = keys(&["b", "b"])).await, &["must ascend"]);
    says(&refused(&|o| o.split_keys = keys(&[""])).await, &["empty"]);
    says(&refused(&|o| o.me = NodeId(9)).await, &["node 9 is not among the peers", "1, 2, 3"]);
    says(&refused(&|o| o.cluster_name.clear()).await, &["cluster name"]);
    let zero = |o: &mut GenesisOptions| drop(o.peers.insert(NodeId(0), "x:1".to_owned()));
    says(&refused(&zero).await, &["begin with 1"]);
    let twice = |o: &mut GenesisOptions| {
        let address = o.peers[&NodeId(1)].clone();
        o.peers.insert(NodeId(3), address);
    };
    says(&refused(&twice).await, &["listed for node 1 and for node 3"]);
}

#[test]
fn agreement_can_be_awaited_anywhere() {
    fn assert_send<T: Send>(_: &T) {}
    let (listener, _) = listen();
    let mut store = Store { node: 1, disks: Disks::default(), crash: None };
    let options = Cluster::new().options(1);
    assert_send(&agree(&listener, options, &mut store));
}

#[test]
fn a_genesis_survives_its_bytes_and_nothing_else_does() {
    let genesis = Genesis {
        format_version: 1,
        cluster_name: "harbour".to_owned(),
        cluster_id: u128::MAX - 5,
        nodes: BTreeMap::from([(
            NodeId(1),
            flotilla_router::genesis::NodeBirth { incarnation: 8, address: "a:1".to_owned() },
        )]),
        split_keys: vec![Bytes::from("b"), Bytes::from("c")],
    };
    let bytes = genesis.encode();
    assert_eq!(Genesis::decode(bytes.clone()).unwrap(), genesis);
    for at in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        assert!(Genesis::decode(changed.into()).is_err(), "byte {at}");
        assert!(Genesis::decode(bytes.slice(..at)).is_err(), "cut at {at}");
    }
}
