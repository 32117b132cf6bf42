//! Every promise, with its cost and its floors: what `cargo prove` lists and runs.

use crate::promise::Promise;

/// The promises, in the order CI runs them: quick ones first.
pub const PROMISES: &[Promise] = &[
    Promise {
        name: "workspace-tests",
        says: "`cargo test` runs every crate of the workspace, checked against `cargo metadata`",
        needs: "nothing",
        flags: &[],
        full: "1 s",
        ci: "the same",
        may_skip: false,
        floors: &[("crates", 19)],
        run: crate::workspace_tests::run,
    },
    Promise {
        name: "filters",
        says: "event patterns mean what event-ruler's published cases and a slow evaluator of their \
               own say, each planted mistake is noticed, and a filtered record of 200 bytes costs \
               a node 1.5 us of CPU at most",
        needs: "nothing",
        flags: &["pairs", "records"],
        full: "1 min: 1,000,000 pairs, 2,000,000 records",
        ci: "10 s: 10,000 pairs, 200,000 records; a miss of the figure is printed, --full fails on \
             it",
        may_skip: false,
        floors: &[("cases", 51), ("pairs", 10_000), ("records", 200_000), ("red_controls", 9)],
        run: crate::filters::run,
    },
    Promise {
        name: "components",
        says: "the committed components are rebuilt from their sources and behave the same",
        needs: "the Rust target wasm32-wasip2 (77 where it cannot be added)",
        flags: &[],
        full: "2 min",
        ci: "the same",
        may_skip: true,
        floors: &[("components", 12)],
        run: crate::components::run,
    },
    Promise {
        name: "crash-points",
        says: "a power cut at any point of a 2,000-operation script leaves the journal and the \
               position store in a state the model allows, and each needed sync that is left out \
               is noticed",
        needs: "a C compiler",
        flags: &["points"],
        full: "10 min: 5,000 points each",
        ci: "1 min: 500 points each",
        may_skip: false,
        floors: &[("store_points", 500), ("journal_points", 500), ("red_controls", 9)],
        run: crate::crash_points::run,
    },
    Promise {
        name: "simulation",
        says: "the cores, composed over a simulated bus, disk, clock and crashes, lose nothing and \
               keep their order in every seeded life; they repeat nothing on the embedded bus, and \
               on Kafka, with owners in turn, only what was not settled durably; whole clusters of \
               them, with raft, placement and ownership, keep CLU, OWN and DEL whatever befalls \
               them, and settle everything once a quorum is well; each planted bug is noticed",
        needs: "nothing",
        flags: &["seeds", "fleets"],
        full: "15 min: 40,000 seeds, 20,000 whole clusters",
        ci: "90 s: 4,000 seeds, half of them on Kafka; 2,000 whole clusters",
        may_skip: false,
        floors: &[
            ("seeds", 4_000),
            ("records", 2_000_000),
            ("effective_crashes", 12_000),
            ("effective_crashes_least", 3),
            ("checks", 50_000_000),
            ("played_twice", 40),
            ("kafka_lives", 2_000),
            ("kafka_crashes", 6_000),
            ("kafka_pauses", 2_000),
            ("kafka_logs_deleted", 200),
            ("kafka_from_group", 2_000),
            ("kafka_from_log", 2_000),
            ("kafka_moved_back", 100),
            ("kafka_restored", 40),
            ("filtered", 100_000),
            ("red_controls", 17),
            ("fleet_seeds", 2_000),
            ("fleet_records", 400_000),
            ("fleet_faults", 10_000),
            ("fleet_faults_least", 5),
            ("fleet_checks", 5_000_000),
            ("fleet_played_twice", 20),
            ("fleet_red_controls", 9),
        ],
        run: crate::sim::run,
    },
    Promise {
        name: "raft",
        says: "a raft group keeps what it acknowledged, never contradicts itself and answers reads \
               in time, whatever crashes at whichever step of its loop, while members join, are \
               removed and lose their disks, in every seeded life, and each planted bug is noticed",
        needs: "nothing",
        flags: &["seeds"],
        full: "4 min: 20,000 seeds",
        ci: "20 s: 2,000 seeds",
        may_skip: false,
        floors: &[
            ("seeds", 2_000),
            ("crashes", 15_000),
            ("before_persist", 1_000),
            ("after_persist", 1_000),
            ("at_install", 100),
            ("installs", 500),
            ("disks_lost", 1_000),
            ("joined", 3_000),
            ("promoted", 3_000),
            ("removed", 1_000),
            ("refused", 1_000),
            ("transfers", 500),
            ("reads", 10_000),
            ("reads_failed", 5_000),
            ("checks", 1_000_000),
            ("played_twice", 20),
            ("red_controls", 10),
        ],
        run: crate::raft_sim::run,
    },
    Promise {
        name: "conformance",
        says: "both buses keep one suite of rules, Kafka's on a real broker, also over SASL_SSL with \
               SCRAM-SHA-512; partitions, headers, nulls and codecs are those of the Java client",
        needs: "Java 17 and Maven, libssl-dev (77 without)",
        flags: &["keys"],
        full: "3 min",
        ci: "the same",
        may_skip: false,
        floors: &[
            ("rules_embedded", 23),
            ("rules_kafka", 23),
            ("rules_scram", 23),
            ("owners", 7),
            ("keys", 10_000),
            ("codecs", 5),
        ],
        run: crate::conformance::run,
    },
    Promise {
        name: "exchange",
        says: "between nodes whoever is no member is refused, counted and logged by name, renewals \
               and a CA rotation under load drop no request, and 100 cut connections no answer",
        needs: "nothing",
        flags: &["cuts"],
        full: "1 min: 1,000 cuts",
        ci: "15 s: 100 cuts",
        may_skip: false,
        floors: &[("refused", 24), ("reconnects", 100), ("renewals", 12), ("red_controls", 100)],
        run: crate::exchange::run,
    },
    Promise {
        name: "subscribers",
        says: "who follows a topic over QUIC sees every record once over 100 reconnects and two kills \
               of its node, on both buses; bad tokens and resume tokens are refused by name",
        needs: "Java and Maven",
        flags: &["reconnects"],
        full: "20 min: 1,000 reconnects",
        ci: "2 to 4 min: 100 reconnects, 20 on Kafka",
        may_skip: false,
        floors: &[
            ("refused", 11),
            ("embedded_reconnects", 100),
            ("embedded_kills", 2),
            ("kafka_reconnects", 20),
            ("red_controls", 60),
        ],
        run: crate::subscribers::run,
    },
    Promise {
        name: "first-alert",
        says: "the README's first command shows an alert within 5 s, and over ten stops (five by \
               SIGKILL) each reading has its output exactly once",
        needs: "nothing",
        flags: &["stops"],
        full: "1 min",
        ci: "the same",
        may_skip: false,
        floors: &[("stops", 10), ("kills", 5)],
        run: crate::first_alert::run,
    },
    Promise {
        name: "bad-input",
        says: "bad manifests, components, files, a full disk: each a clear error by name, the \
               rest keeps working, nothing acknowledged is lost",
        needs: "root, for the full disk (77 without)",
        flags: &[],
        full: "2 min",
        ci: "the same",
        may_skip: false,
        floors: &[("cases", 23)],
        run: crate::bad_input::run,
    },
    Promise {
        name: "partial",
        says: "what runs again of a Lambda batch that fails, in whichever way and order, is what the \
               rules say; what is given up says why; a kill of the node is nobody's attempt",
        needs: "python3 (77 where there is none)",
        flags: &[],
        full: "20 s",
        ci: "the same",
        may_skip: true,
        floors: &[("cases", 42), ("red_controls", 6)],
        run: crate::partial::run,
    },
    Promise {
        name: "destinations",
        says: "on-success and on-failure get one message for every record that has its end, in the \
               commit that settles it and the order of its key; all that it says is what lies in the \
               topics, across a SIGKILL, on both buses",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["records"],
        full: "2 min: 20,000 records on each bus",
        ci: "30 s: 480 records on each bus",
        may_skip: false,
        floors: &[
            ("embedded_successes", 900),
            ("embedded_failures", 200),
            ("kafka_successes", 900),
            ("kafka_failures", 200),
            ("embedded_red_controls", 13),
            ("kafka_red_controls", 12),
        ],
        run: crate::destinations::run,
    },
    Promise {
        name: "clients",
        says: "the runtime clients that AWS publishes run handlers here unmodified, in both event \
               modes, and its helpers for Python accept our event",
        needs: "python3 with pip, go, node with npm, cmake, a C++ compiler, and the registries of \
                these languages (77 without)",
        flags: &[],
        full: "1 min, and 5 for building the clients at first",
        ci: "the same",
        may_skip: false,
        floors: &[("clients", 5)],
        run: crate::clients::run,
    },
    Promise {
        name: "worker-abuse",
        says: "each misbehaviour of a process is a named error at its own record, the function \
               beside it keeps 0.9 of its rate, and the node holds afterwards what it held before",
        needs: "python3 (77 where there is none)",
        flags: &["abuses"],
        full: "20 min: 10,000 abuses",
        ci: "1 min: 200 abuses",
        may_skip: true,
        floors: &[("abuses", 200)],
        run: crate::worker_abuse::run,
    },
    Promise {
        name: "broker-faults",
        says: "a Kafka that is stopped, killed, locked, or loses topics and records under load: \
               outputs are back within 10 s in every partition, what needs a person stops alone and \
               by name, nothing is lost or read silently from somewhere else",
        needs: "Java 17 and Maven (77 without)",
        flags: &["outage"],
        full: "3 min: the broker stopped for 60 s",
        ci: "2 min: for 8 s",
        may_skip: false,
        floors: &[("cases", 15), ("records", 5_000), ("red_controls", 5)],
        run: crate::broker_faults::run,
    },
    Promise {
        name: "kill-embedded",
        says: "SIGKILL at random times loses nothing, repeats nothing and keeps the order of keys",
        needs: "nothing",
        flags: &["records", "kills"],
        full: "10 min: 1,000,000 records, 50 counted kills",
        ci: "1 min: 60,000 records, 6 counted kills",
        may_skip: false,
        floors: &[("records", 60_000), ("kills", 5), ("red_controls", 3)],
        run: crate::kill::run_embedded,
    },
    Promise {
        name: "kill-both",
        says: "SIGKILL at random times, with a Python function chained into a wasm function: \
               nothing lost and the order of keys kept on both buses, nothing repeated on the \
               embedded one, and no worker outlives its node by 2 s",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["records", "kills"],
        full: "15 min: 1,000,000 records and 50 counted kills on each bus",
        ci: "1 min: 40,000 records and 5 counted kills on each bus",
        may_skip: false,
        floors: &[
            ("embedded_records", 40_000),
            ("embedded_kills", 5),
            ("kafka_records", 40_000),
            ("kafka_kills", 5),
            ("red_controls", 6),
        ],
        run: crate::kill::run_both,
    },
    Promise {
        name: "three-nodes",
        says: "one script brings up a real Kafka and three nodes in 15 s and deploys the weather \
               application; a node that is killed then is not missed",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &[],
        full: "1 min",
        ci: "1 min: the script may take 60 s",
        may_skip: false,
        floors: &[("alerts", 100)],
        run: crate::three_nodes::run,
    },
    Promise {
        name: "failover",
        says: "a node of three that is killed is a non-event: its shards go on elsewhere within \
               1.5 s at the median, nothing is lost, keys keep their order",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["kills"],
        full: "20 min: 100 kills",
        ci: "3 min: 15 kills; times may be three times as long",
        may_skip: false,
        floors: &[("kills", 15), ("leader_kills", 5), ("records", 10_000), ("red_controls", 3)],
        run: crate::fleet::run_failover,
    },
    Promise {
        name: "zombies",
        says: "a node of three that is stopped and goes on later does no harm: what it still puts \
               out ends within 2 s, what it moves back is restored within 2 s, nothing is lost, keys \
               keep their order in every epoch",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["stops"],
        full: "45 min: 60 stops of 0.5 to 60 s",
        ci: "3 min: 10 stops of 0.5 to 6 s, one of them of 60 s",
        may_skip: false,
        floors: &[("stops", 10), ("taken_over", 3), ("records", 10_000), ("red_controls", 5)],
        run: crate::fleet::run_zombies,
    },
    Promise {
        name: "partitions",
        says: "a network that is cut between three nodes, in both directions, in one, in a ring, on \
               and off, or between a node and Kafka, loses nothing and keys keep their order in every \
               epoch; who is cut off goes on until another owns what it has, who is cut off from \
               Kafka is relieved, and everything is settled when the network is whole",
        needs: "root, ip, unshare and nsenter; python3 with venv and PyPI, Java 17 and Maven (77 \
                without)",
        flags: &["cuts"],
        full: "30 min: 60 cuts",
        ci: "4 min: 8 cuts",
        may_skip: false,
        floors: &[("cuts", 8), ("records", 10_000), ("red_controls", 5)],
        run: crate::fleet::run_partitions,
    },
    Promise {
        name: "rebalance",
        says: "a fourth node that joins three gets its share of very many shards within 2 s, no more \
               move than have to, those that stay notice nothing, and joins and leaves end with \
               equal shares",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["shards", "turns"],
        full: "5 min: 1,000 shards, ten joins and leaves",
        ci: "2 min: 200 shards, four joins and leaves; the join may take 10 s",
        may_skip: false,
        floors: &[("shards", 200), ("turns", 4), ("records", 10_000)],
        run: crate::fleet::run_rebalance,
    },
    Promise {
        name: "ca-rotation",
        says: "the CA of three nodes takes another's place under load and drops nothing: no shard \
               changes hands, no member refuses another, a kill of the leader at any stage only \
               delays it, both CAs are good until all nodes have a certificate of the new one, and \
               then who shows the old one is refused, counted and logged",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["kills"],
        full: "15 min: 30 kills",
        ci: "2 min: three kills",
        may_skip: false,
        floors: &[
            ("rotations", 5),
            ("kills", 3),
            ("old_certificates_refused", 5),
            ("records", 5_000),
            ("red_controls", 3),
        ],
        run: crate::fleet::run_rotation,
    },
    Promise {
        name: "autoscale",
        says: "when the load of one of fifty functions steps up, its instances are there within 2 s, and \
               go when they had nothing to do for the idle expiry; the other functions notice nothing; \
               a partition that gets all of the load is given what it needs, and its node gives others \
               away; a minimum and a maximum of the whole cluster hold, also while a node is drained",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["rate", "seconds"],
        full: "3.5 min: a step from 100 to 20,000 records/s",
        ci: "2.5 min: a step to 4,000 records/s",
        may_skip: false,
        floors: &[("functions", 50), ("red_controls", 14)],
        run: crate::autoscale::run,
    },
    Promise {
        name: "labels",
        says: "a function that names a label runs at the nodes that have it and at no other, \
               whichever of three nodes it is deployed, called or rolled back at and whichever of \
               them dies; one that cannot start there, or whose labels nobody has, is refused by name",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &[],
        full: "1 min: seven parts of 120 records",
        ci: "the same",
        may_skip: false,
        floors: &[("parts", 7), ("records", 840), ("red_controls", 5)],
        run: crate::labels::run,
    },
    Promise {
        name: "drain",
        says: "a node of three that is drained, or stopped and started again, repeats nothing, loses \
               nothing, and no shard is silent for more than 300 ms (p99)",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["rounds", "rate"],
        full: "5 min: 10 rounds of every node at 5,000 records/s",
        ci: "1 min: one round at 500 records/s; silence may be three times as long",
        may_skip: false,
        floors: &[("drains", 3), ("restarts", 3), ("records", 5_000), ("red_controls", 3)],
        run: crate::fleet::run_drain,
    },
    Promise {
        name: "upgrade",
        says: "nodes are exchanged one by one for those of a build with another format of the log, \
               of checkpoints and of frames, under load, back and forward again: nothing is lost, \
               nothing of that format is written before an operator ends the upgrade, and then older \
               builds are refused by name",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["rounds"],
        full: "12 min: 5 times to the next build and back",
        ci: "4 min: once to the next build and back, then forward for good; and the build of it",
        may_skip: false,
        floors: &[
            ("rolled", 12),
            ("old_builds_refused", 3),
            ("records", 5_000),
            ("red_controls", 6),
        ],
        run: crate::fleet::run_upgrade,
    },
    Promise {
        name: "stubborn-key",
        says: "a key that keeps failing costs only itself: the others keep 0.9 of their rate and \
               1.5 times their p99, memory stays, SIGKILL loses nothing, and once it heals all of \
               its records come out in order, on both buses and across moves between three nodes",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["rate", "failing"],
        full: "35 min: 20,000 records/s (on Kafka 5,000, on three nodes 4,000), the key fails for \
               10 min on each",
        ci: "2 min: the same rates, the key fails for 8 s, two kills on each bus, a drain and a \
             kill of three nodes",
        may_skip: false,
        floors: &[
            ("embedded_hot", 1_000),
            ("kafka_hot", 300),
            ("embedded_kills", 2),
            ("three_moves", 2),
        ],
        run: crate::stubborn_key::run,
    },
    Promise {
        name: "frames",
        says: "no bytes of another node, a joiner or a subscriber end a node, take memory that they do \
               not fill, or are read as something else than the layout says, however they are cut",
        needs: "nothing",
        flags: &["executions"],
        full: "5 min: 10,000,000 executions",
        ci: "20 s: 1,000,000 executions",
        may_skip: false,
        floors: &[("executions", 1_000_000), ("frames", 50_000), ("red_controls", 5)],
        run: crate::frames::run,
    },
    Promise {
        name: "fuzz",
        says: "no record, however strange its value and its headers, ends a node or is lost: each has one \
               end at each function, unchanged where it was given up, and every failure has a name",
        needs: "python3 and node (77 without)",
        flags: &["records"],
        full: "15 min: 1,000,000 records",
        ci: "20 s: 20,000 records",
        may_skip: false,
        floors: &[("records", 20_000), ("python_dead", 1_000), ("red_controls", 4)],
        run: crate::fuzz::run,
    },
    Promise {
        name: "backlog",
        says: "a function that is far behind costs only itself: the node's memory stays below 300 MB, \
               another function keeps 0.9 of its rate and 1.5 times its p99, and lag is what the \
               journal says",
        needs: "python3 (77 where there is none)",
        flags: &["records", "seconds"],
        full: "5 min: 2,000,000 records of 1 KB, 3 min",
        ci: "40 s: 40,000 records, 12 s; a miss of the other function is printed, --full fails on it",
        may_skip: false,
        floors: &[("records", 40_000), ("lag", 20_000)],
        run: crate::backlog::run,
    },
    Promise {
        name: "node-killer",
        says: "a record that ends the node which runs it is found by marks that are committed before \
               it runs, and is a dead letter after seven attempts; a supervisor that starts the node \
               again is all it takes, and nothing else is lost or blamed, on both buses and with three \
               nodes",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["records", "killers"],
        full: "10 min: 100,000 records, 1 and 10 killers",
        ci: "2 min: 10,000 records, 1 and 3 killers, 1 on Kafka, and 1 with three nodes",
        may_skip: false,
        floors: &[
            ("one_embedded_deaths", 7),
            ("one_kafka_deaths", 7),
            ("three_nodes_deaths", 7),
            ("red_controls", 24),
        ],
        run: crate::node_killer::run,
    },
    Promise {
        name: "systemd",
        says: "the Debian package installs, upgrades, and goes without a trace in a fresh Debian; \
               under a real systemd its node is ready only when ready, drains when it is stopped, is \
               started again when it hangs or dies and not at status 78; three commands lead to an \
               alert without a network in 60 s, and the upgrade runbook holds",
        needs: "root, debootstrap, lintian, dpkg-dev, cargo-deb, namespaces (77 without)",
        flags: &[],
        full: "the same",
        ci: "2 min, and 1 to 3 to make a Debian once",
        may_skip: false,
        floors: &[("records", 130), ("files", 100), ("red_controls", 19)],
        run: crate::systemd::run,
    },
    Promise {
        name: "durable",
        says: "acknowledged deploys, pauses and tokens outlive kills, a power cut of everything, a \
               wiped disk and a quorum that is lost for good; a backup goes on elsewhere where it was",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["kills", "cuts"],
        full: "5 min: 40 kills, 5,000 simulated power cuts",
        ci: "2 min: 6 kills, 500 simulated power cuts",
        may_skip: false,
        floors: &[
            ("power_cuts", 500),
            ("deploys", 3),
            ("pauses", 2),
            ("tokens_spent", 2),
            ("red_controls", 7),
        ],
        run: crate::durable::run,
    },
    Promise {
        name: "circuit",
        says: "a trigger whose attempts fail stops trying, says so, probes with a small batch after \
               pauses that grow, and goes on by itself when one ends well; nothing is lost",
        needs: "python3 (77 without)",
        flags: &[],
        full: "30 s",
        ci: "the same",
        may_skip: true,
        floors: &[("records", 450), ("probes", 3), ("red_controls", 4)],
        run: crate::circuit::run,
    },
    Promise {
        name: "delayed-retry",
        says: "a record waits as long as a list of pauses says, no shorter and across a kill, holds up \
               its key alone, and the key keeps its order, on both buses",
        needs: "python3, Java 17 and Maven (77 without)",
        flags: &[],
        full: "1 min: pauses of 1 s and twice 11 s on each bus",
        ci: "the same",
        may_skip: false,
        floors: &[("embedded_records", 60), ("kafka_records", 60), ("kafka_red_controls", 5)],
        run: crate::delayed_retry::run,
    },
    Promise {
        name: "poison",
        says: "a bad record alone is dead-lettered with its true cause; it costs 2 invocations for \
               each halving, one and its retries, and none where it cannot be decoded; records \
               that share neither batch nor key with it keep 1.5 times their p99, those of its \
               batch wait for 8 times timeout and cold start and 1 s at most, on both buses",
        needs: "python3 with venv and PyPI, Java 17 and Maven (77 without)",
        flags: &["alone", "mixed", "rate"],
        full: "10 min: 100,000 records and 10 bad ones of each kind alone, 400,000 mixed, on each bus",
        ci: "2 min: 10,000 records and a bad one of each kind alone, 40,000 mixed, on each bus",
        may_skip: false,
        floors: &[
            ("embedded_records", 105_000),
            ("kafka_records", 105_000),
            ("embedded_dead_letters", 16),
            ("kafka_dead_letters", 16),
            ("embedded_red_controls", 17),
            ("kafka_red_controls", 17),
        ],
        run: crate::poison::run,
    },
    Promise {
        name: "redeploy",
        says: "deploys in a row under load, three of them broken, and SIGKILL during deploys lose \
               nothing, repeat nothing and keep the order of keys; what was acknowledged is there \
               whole, a broken revision never gets a record, and a save is live within 1 s",
        needs: "python3 and node (77 without)",
        flags: &["rate", "deploys", "kills", "saves"],
        full: "20 min: 20,000 records/s, 20 deploys, 200 counted kills, 40 saves",
        ci: "1 min: 8 deploys, 5 counted kills, 8 saves; the rate and the time of a save are \
             printed, --full fails on them",
        may_skip: true,
        floors: &[("deploys", 8), ("refused", 3), ("kills", 5), ("saves", 8), ("red_controls", 5)],
        run: crate::redeploy::run,
    },
    Promise {
        name: "seen",
        says: "Prometheus' own tool has nothing to say of a node's metrics and fires every alert rule \
               of deploy/, rules and dashboard name only what a node serves, traces connect input \
               record, invocation and output record through two functions, as a collector got them, \
               and sums of metrics are those of the history of records that fail in every way",
        needs: "promtool, or apt-get with Debian's package of it; python3 and PyPI (77 without)",
        flags: &["records"],
        full: "10 min: 1,000,000 records",
        ci: "30 s: 40,000 records",
        may_skip: true,
        floors: &[
            ("families", 40),
            ("rules", 16),
            ("names_used", 30),
            ("red_controls", 3),
            ("trace_through", 600),
            ("trace_links", 900),
            ("trace_red_controls", 8),
            ("sum_records", 40_000),
            ("sum_dead_lettered", 10),
            ("sum_red_controls", 19),
        ],
        run: crate::seen::run,
    },
    Promise {
        name: "redrive",
        says: "dead letters of a function that was mended go back once, in the order of their keys and \
               as they were or were edited, although the node is killed in the middle; a dry run \
               changes nothing",
        needs: "python3 (77 without)",
        flags: &["records", "kills"],
        full: "1 min: 100,000 dead letters, 10 kills",
        ci: "20 s: 10,000 dead letters of 500 keys, 3 kills",
        may_skip: true,
        floors: &[("records", 10_000), ("kills", 2), ("edited", 5), ("red_controls", 7)],
        run: crate::redrive::run,
    },
    Promise {
        name: "answers",
        says: "what a node says happened to a record is what the topics say: state, attempts, revision, \
               invocation, outputs, of records that succeed, fail, are filtered, parked and given up, \
               across two SIGKILLs; none is unknown",
        needs: "python3 (77 without)",
        flags: &["records", "asked"],
        full: "3 min: 90,000 records, 1,000 of them asked after",
        ci: "30 s: 9,000 records, 1,000 of them asked after, 2 kills",
        may_skip: true,
        floors: &[("asked", 1_000), ("kills", 2), ("red_controls", 14)],
        run: crate::answers::run,
    },
    Promise {
        name: "speed-embedded",
        says: "400,000 records/s end to end on 2 cores, or 4 us of CPU a record on a noisy \
               machine; many partitions and functions cost little; a fresh instance is nearly free",
        needs: "nothing",
        flags: &["records", "rounds"],
        full: "6 min: 2,000,000 records, 5 rounds",
        ci: "1 min: 1,000,000 records, 3 rounds, without the curves; misses are printed, \
             --full fails on them",
        may_skip: false,
        floors: &[],
        run: crate::speed_embedded::run,
    },
    Promise {
        name: "speed-kafka",
        says: "on a real broker a node does at least 0.9 of the records a CPU-second of a \
               passthrough on rdkafka, half of one with its own malloc, half of one with the \
               function compiled natively; 500 triggers that wait cost 3 % of a core",
        needs: "Java 17 and Maven (77 without)",
        flags: &["records", "rounds", "idle"],
        full: "10 min: 2,000,000 records, 5 rounds, a minute idle",
        ci: "2 min: 500,000 records, 3 rounds; misses are printed, --full fails on them",
        may_skip: false,
        floors: &[("records", 500_000), ("idle_triggers", 500)],
        run: crate::speed_kafka::run,
    },
    Promise {
        name: "speed-process",
        says: "one process does at least half (Python) and 0.36 (Node.js) of what a bare loop of \
               decode, call and encode does, and starts in 1.2 of a bare interpreter's time; one \
               event at a time our bootstrap does 2.5 times what the client that AWS publishes \
               does, which takes 1.1 times as long on a node as on a server that does nothing",
        needs: "python3 with pip, node, and PyPI (77 without)",
        flags: &["rounds"],
        full: "3 min: 9 rounds",
        ci: "1 min: 3 rounds; misses are printed, --full fails on them",
        may_skip: true,
        floors: &[],
        run: crate::speed_process::run,
    },
    Promise {
        name: "remote-invoke",
        says: "a synchronous call at any of three nodes runs once, where an instance is warm; when \
               its time is over or its caller hangs up it is ended where it runs, when its node \
               dies its caller hears within 2 s that it may have run, and nobody runs it again; \
               crossing adds at most 150 us at the median",
        needs: "Java 17, Maven and python3 (77 without)",
        flags: &["rounds", "pairs"],
        full: "15 min: 20 rounds, 10,000 pairs of calls",
        ci: "2 min: 2 rounds, 2,000 pairs of calls; a miss of the 150 us that crossing may add is \
             printed, --full fails on it",
        may_skip: false,
        floors: &[("remote", 40), ("killed", 2), ("hung_up", 4), ("red_controls", 13)],
        run: crate::remote_invoke::run,
    },
];

/// The promise of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Promise> {
    PROMISES.iter().find(|promise| promise.name == name)
}
