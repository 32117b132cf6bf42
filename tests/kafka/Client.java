// The official Java client, for verdicts that share no code with ours: `produce` sends the lines
// of its standard input and says where each landed, `consume` prints what it reads.
//
// A line is `topic partition timestamp key value headers`, with tabs between. The partition `-` is
// the client's to choose. Bytes are hex, `~` is null, headers are `name:value` with commas.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

class Client {
    static final HexFormat HEX = HexFormat.of();

    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[1]);
        switch (arguments[0]) {
            case "produce" -> produce(settings, arguments[2]);
            case "consume" -> consume(settings, arguments[2], Integer.parseInt(arguments[3]));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    static void produce(Properties settings, String codec) throws Exception {
        settings.put("compression.type", codec);
        settings.put("linger.ms", "50");
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            BufferedReader lines =
                    new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] parts = line.split("\t", -1);
                Integer partition = parts[1].equals("-") ? null : Integer.valueOf(parts[1]);
                List<Header> headers = new ArrayList<>();
                for (String header : parts[5].split(",")) {
                    if (!header.isEmpty()) {
                        String[] pair = header.split(":", -1);
                        String name = new String(HEX.parseHex(pair[0]), StandardCharsets.UTF_8);
                        headers.add(new RecordHeader(name, bytes(pair[1])));
                    }
                }
                sent.add(producer.send(new ProducerRecord<>(
                        parts[0], partition, Long.valueOf(parts[2]), bytes(parts[3]),
                        bytes(parts[4]), headers)));
            }
            producer.flush();
        }
        StringBuilder said = new StringBuilder();
        for (Future<RecordMetadata> one : sent) {
            RecordMetadata place = one.get();
            said.append(place.partition()).append('\t').append(place.offset()).append('\n');
        }
        System.out.print(said);
    }

    static void consume(Properties settings, String topic, int count) {
        settings.put("auto.offset.reset", "none");
        TopicPartition place = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(
                settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(List.of(place));
            consumer.seek(place, 0);
            StringBuilder said = new StringBuilder();
            int seen = 0;
            while (seen < count) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    seen++;
                    said.append(record.topic()).append('\t').append(record.partition()).append('\t')
                            .append(record.timestamp()).append('\t').append(text(record.key()))
                            .append('\t').append(text(record.value())).append('\t');
                    String comma = "";
                    for (Header header : record.headers()) {
                        byte[] name = header.key().getBytes(StandardCharsets.UTF_8);
                        said.append(comma).append(text(name)).append(':').append(text(header.value()));
                        comma = ",";
                    }
                    said.append('\n');
                }
            }
            System.out.print(said);
        }
    }

    static byte[] bytes(String text) {
        return text.equals("~") ? null : HEX.parseHex(text);
    }

    static String text(byte[] bytes) {
        return bytes == null ? "~" : HEX.formatHex(bytes);
    }
}
