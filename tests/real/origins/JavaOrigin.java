import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.StringJoiner;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;

/** An origin made of the JDK's com.sun.net.httpserver that answers with what it parsed, in hexadecimal JSON; `n` counts whole requests. */
public final class JavaOrigin {
    private static final AtomicLong COUNT = new AtomicLong();

    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/", JavaOrigin::echo);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
        System.out.println(server.getAddress().getPort());
    }

    private static void echo(HttpExchange exchange) throws java.io.IOException {
        byte[] body = exchange.getRequestBody().readAllBytes();
        StringJoiner fields = new StringJoiner(", ", "[", "]");
        exchange.getRequestHeaders().forEach((name, values) ->
            values.forEach(value -> fields.add("[" + hex(name) + ", " + hex(value) + "]")));
        String line = "{\"n\": " + COUNT.incrementAndGet() + ", \"method\": " + hex(exchange.getRequestMethod())
            + ", \"target\": " + hex(exchange.getRequestURI().toString()) + ", \"fields\": " + fields
            + ", \"body\": \"" + HexFormat.of().formatHex(body) + "\"}";
        byte[] answer = line.getBytes(StandardCharsets.US_ASCII);
        exchange.getResponseHeaders().set("X-Origin", "java");
        if (exchange.getRequestMethod().equals("HEAD")) {
            exchange.getResponseHeaders().set("X-Echo", line);
            exchange.sendResponseHeaders(200, -1);
        } else {
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
        }
        exchange.close();
    }

    private static String hex(String text) {
        return '"' + HexFormat.of().formatHex(text.getBytes(StandardCharsets.ISO_8859_1)) + '"';
    }
}
