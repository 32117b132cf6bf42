// Who may enter a broker's listener with a password: the lines of a file, `user password`, read
// anew at each attempt, so that a test can take a permission away while the broker runs.

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import javax.security.auth.callback.Callback;
import javax.security.auth.callback.NameCallback;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.plain.PlainAuthenticateCallback;

public class Doorkeeper implements AuthenticateCallbackHandler {
    private Path list;

    @Override
    public void configure(
            Map<String, ?> settings, String mechanism, List<AppConfigurationEntry> entries) {
        list = Path.of((String) entries.get(0).getOptions().get("list"));
    }

    @Override
    public void handle(Callback[] callbacks) throws IOException {
        String name = null;
        for (Callback callback : callbacks) {
            if (callback instanceof NameCallback asked) {
                name = asked.getDefaultName();
            } else if (callback instanceof PlainAuthenticateCallback asked) {
                String line = name + " " + new String(asked.password());
                asked.authenticated(Files.readAllLines(list).contains(line));
            }
        }
    }

    @Override
    public void close() {}
}
