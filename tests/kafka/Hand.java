// The official Java client as a long-lived process: it makes, changes and deletes topics, produces
// at an even rate whatever the brokers do, and reads topics for the verdict. One command a line on
// standard input, its parts with tabs between; the answer's lines, then `ok` or `failed` and why.

import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

class Hand {
    static final HexFormat HEX = HexFormat.of();
    /** Keys of a partition. */
    static final int KEYS = 20;

    /** For answers alone: everything else that is printed goes where errors go. */
    static final PrintStream ANSWERS = System.out;

    final String brokers;
    final Admin admin;
    final Map<String, Load> loads = new HashMap<>();

    Hand(String brokers) {
        this.brokers = brokers;
        this.admin = Admin.create(settings());
    }

    public static void main(String[] arguments) throws Exception {
        System.setOut(System.err);
        Hand hand = new Hand(arguments[0]);
        BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        ANSWERS.println("ok");
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            try {
                hand.obey(line.split("\t", -1));
                ANSWERS.println("ok");
            } catch (Exception error) {
                Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
                ANSWERS.println("failed " + cause.toString().replace('\n', ' '));
            }
        }
        // Threads of the clients must not keep it.
        System.exit(0);
    }

    Properties settings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", brokers);
        settings.put("reconnect.backoff.max.ms", "200");
        return settings;
    }

    KafkaProducer<byte[], byte[]> producer() {
        Properties settings = settings();
        settings.put("acks", "all");
        settings.put("linger.ms", "5");
        settings.put("retry.backoff.max.ms", "200");
        settings.put("delivery.timeout.ms", "240000");
        settings.put("max.block.ms", "240000");
        settings.put("max.request.size", "4000000");
        return new KafkaProducer<>(
                settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    void obey(String[] words) throws Exception {
        switch (words[0]) {
            case "create" -> create(words[1], Integer.parseInt(words[2]), words[3]);
            case "delete" -> delete(words[1]);
            case "grow" -> admin.createPartitions(Map.of(
                    words[1], NewPartitions.increaseTo(Integer.parseInt(words[2])))).all().get();
            case "cut" -> cut(words[1], Integer.parseInt(words[2]));
            case "set" -> set(words[1], words[2], words[3]);
            case "setting" -> ANSWERS.println(setting(words[1], words[2]));
            case "ends" -> ends(Arrays.copyOfRange(words, 1, words.length));
            case "committed" -> committed(words[1]);
            case "send" -> send(words[1], Integer.parseInt(words[2]), words[3], words[4]);
            case "load" -> loads.put(words[1], new Load(words[1], Integer.parseInt(words[2]),
                    Integer.parseInt(words[3]), words[4]));
            case "unload" ->
                    loads.remove(words[1]).end(Path.of(words[2]), Integer.parseInt(words[3]));
            case "read" -> read(words[1], Path.of(words[2]));
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    void create(String topic, int partitions, String settings) throws Exception {
        Map<String, String> map = new HashMap<>();
        // The broker's clock tells when a record was there.
        map.put("message.timestamp.type", "LogAppendTime");
        for (String setting : settings.split(",")) {
            if (!setting.isEmpty()) {
                map.put(setting.split("=")[0], setting.split("=")[1]);
            }
        }
        NewTopic wanted = new NewTopic(topic, Optional.of(partitions), Optional.empty());
        admin.createTopics(List.of(wanted.configs(map))).all().get();
    }

    /** Returns when the broker does not know it any more. */
    void delete(String topic) throws Exception {
        admin.deleteTopics(List.of(topic)).all().get();
        while (true) {
            try {
                admin.describeTopics(List.of(topic)).allTopicNames().get();
            } catch (ExecutionException error) {
                if (error.getCause() instanceof UnknownTopicOrPartitionException) {
                    return;
                }
                throw error;
            }
            Thread.sleep(20);
        }
    }

    /** Deletes all records that a partition has now; says where it begins then. */
    void cut(String topic, int partition) throws Exception {
        TopicPartition place = new TopicPartition(topic, partition);
        var deleted = admin.deleteRecords(Map.of(place, RecordsToDelete.beforeOffset(-1)));
        ANSWERS.println(deleted.lowWatermarks().get(place).get().lowWatermark());
    }

    void set(String topic, String key, String value) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Collection<AlterConfigOp> changes =
                List.of(new AlterConfigOp(new ConfigEntry(key, value), AlterConfigOp.OpType.SET));
        admin.incrementalAlterConfigs(Map.of(resource, changes)).all().get();
    }

    String setting(String topic, String key) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        return admin.describeConfigs(List.of(resource)).all().get().get(resource).get(key).value();
    }

    static List<TopicPartition> places(KafkaConsumer<?, ?> consumer, String topic) {
        List<TopicPartition> places = new ArrayList<>();
        consumer.partitionsFor(topic).forEach(
                it -> places.add(new TopicPartition(topic, it.partition())));
        places.sort((a, b) -> Integer.compare(a.partition(), b.partition()));
        return places;
    }

    KafkaConsumer<byte[], byte[]> consumer() {
        Properties settings = settings();
        settings.put("auto.offset.reset", "none");
        return new KafkaConsumer<>(
                settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** `topic partition start end` for each partition of each topic. */
    void ends(String[] topics) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            for (String topic : topics) {
                List<TopicPartition> places = places(consumer, topic);
                Map<TopicPartition, Long> starts = consumer.beginningOffsets(places);
                Map<TopicPartition, Long> ends = consumer.endOffsets(places);
                for (TopicPartition place : places) {
                    ANSWERS.println(topic + "\t" + place.partition() + "\t" + starts.get(place)
                            + "\t" + ends.get(place));
                }
            }
        }
    }

    /** `topic partition offset` for each that a group has committed. */
    void committed(String group) throws Exception {
        admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().forEach(
                (place, it) -> ANSWERS.println(
                        place.topic() + "\t" + place.partition() + "\t" + it.offset()));
    }

    /** Records of these sizes, with commas between, in one go; returns when all are acknowledged. */
    void send(String topic, int partition, String name, String sizes) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            List<Future<?>> sent = new ArrayList<>();
            long number = 0;
            for (String size : sizes.split(",")) {
                sent.add(producer.send(new ProducerRecord<>(topic, partition,
                        key(partition, number), value(name, number, Integer.parseInt(size)))));
                number++;
            }
            producer.flush();
            for (var one : sent) {
                one.get();
            }
        }
    }

    static byte[] key(int partition, long number) {
        return (partition + "-" + number % KEYS).getBytes(StandardCharsets.US_ASCII);
    }

    static byte[] value(String name, long number, int size) {
        byte[] value = new byte[size];
        Arrays.fill(value, (byte) '.');
        byte[] head = (name + " " + number + " ").getBytes(StandardCharsets.US_ASCII);
        System.arraycopy(head, 0, value, 0, Math.min(size, head.length));
        return value;
    }

    /** `partition offset timestamp key value headers` for each record there is now, in a file. */
    void read(String topic, Path file) throws IOException {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer();
                BufferedWriter out = Files.newBufferedWriter(file)) {
            List<TopicPartition> places = places(consumer, topic);
            consumer.assign(places);
            consumer.seekToBeginning(places);
            Map<TopicPartition, Long> ends = consumer.endOffsets(places);
            while (places.stream().anyMatch(it -> consumer.position(it) < ends.get(it))) {
                for (ConsumerRecord<byte[], byte[]> it : consumer.poll(Duration.ofMillis(200))) {
                    out.write(it.partition() + "\t" + it.offset() + "\t" + it.timestamp() + "\t"
                            + text(it.key()) + "\t" + text(it.value()) + "\t");
                    for (Header header : it.headers()) {
                        out.write(header.key() + "=" + text(header.value()) + ",");
                    }
                    out.write('\n');
                }
            }
        }
    }

    static String text(byte[] bytes) {
        return bytes == null ? "~" : HEX.formatHex(bytes);
    }

    /** Records at an even rate, to each partition in turn, whether or not the brokers answer. */
    class Load {
        final KafkaProducer<byte[], byte[]> producer = producer();
        final List<String> acknowledged = new ArrayList<>();
        final AtomicLong failed = new AtomicLong();
        final CountDownLatch over = new CountDownLatch(1);
        final Thread thread;

        Load(String topic, int partitions, int rate, String name) {
            thread = new Thread(() -> run(topic, partitions, rate, name));
            thread.setDaemon(true);
            thread.start();
        }

        void run(String topic, int partitions, int rate, String name) {
            long began = System.nanoTime();
            try {
                for (long number = 0; ; ) {
                    long due = (System.nanoTime() - began) * rate / 1_000_000_000L;
                    for (; number < due; number++) {
                        send(topic, (int) (number % partitions), name, number);
                    }
                    if (over.await(10, TimeUnit.MILLISECONDS)) {
                        return;
                    }
                }
            } catch (InterruptedException ended) {
                // It was asked to.
            }
        }

        void send(String topic, int partition, String name, long number) {
            byte[] key = key(partition, number / 7), value = value(name, number, 100);
            producer.send(new ProducerRecord<>(topic, partition, key, value), (place, error) -> {
                if (error != null) {
                    failed.incrementAndGet();
                    return;
                }
                synchronized (acknowledged) {
                    acknowledged.add(place.partition() + "\t" + place.offset() + "\t" + number);
                }
            });
        }

        /** Ends it; writes `partition offset number` of all that were acknowledged, and says how
         * many were not. What is not sent within some seconds is given up. */
        void end(Path file, int seconds) throws Exception {
            over.countDown();
            thread.interrupt();
            thread.join(1_000);
            producer.close(Duration.ofSeconds(seconds));
            synchronized (acknowledged) {
                Files.write(file, acknowledged);
            }
            ANSWERS.println(failed.get());
        }
    }
}
