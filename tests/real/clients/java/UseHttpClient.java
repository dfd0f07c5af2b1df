import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Java's HttpClient with its defaults (it offers h2c with its first request) and BASE_URL; one JSON object a line for each step. */
public final class UseHttpClient {
    private static final String BASE = System.getenv("BASE_URL");
    private static final String KEY = "Bearer " + System.getenv("PLACEHOLDER");
    private static final HttpClient CLIENT = HttpClient.newBuilder().followRedirects(HttpClient.Redirect.NORMAL).build();

    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 0) {
            socket();
            return;
        }
        // A POST with a body comes first: that is the request which carries the offer of h2c.
        tell("post", text(ask("/echo").POST(BodyPublishers.ofString("é".repeat(1000)))));
        HttpResponse<String> got = CLIENT.send(ask("/echo?x=%2F").build(), BodyHandlers.ofString());
        tell("get", got.body());
        tell("version", quoted(got.version().toString()));
        byte[] whole = new byte[5_000_000];
        tell("chunked", text(ask("/echo").PUT(BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(whole)))));
        tell("expect", text(ask("/echo").expectContinue(true).POST(BodyPublishers.ofByteArray(new byte[100_000]))));
        tell("delete", text(ask("/echo").DELETE()));
        tell("patch", text(ask("/echo").method("PATCH", BodyPublishers.noBody())));
        tell("head", "" + CLIENT.send(ask("/large").method("HEAD", BodyPublishers.noBody()).build(), BodyHandlers.ofString())
            .headers().firstValueAsLong("content-length").getAsLong());
        tell("large", "" + CLIENT.send(ask("/large").build(), BodyHandlers.ofByteArray()).body().length);
        tell("until close", "" + CLIENT.send(ask("/until-close").build(), BodyHandlers.ofByteArray()).body().length);
        tell("range", quoted(hex(CLIENT.send(ask("/large").header("Range", "bytes=10-19").build(), BodyHandlers.ofByteArray()).body())));
        tell("redirect", text(ask("/redirect?to=/echo%3Fmoved")));
        tell("bodiless", "" + CLIENT.send(ask("/status?is=204").build(), BodyHandlers.ofString()).statusCode());
        tell("trailers", quoted(CLIENT.send(ask("/trailers").build(), BodyHandlers.ofString()).body()));
        tell("refused", "" + CLIENT.send(ask("/refuse-early").POST(BodyPublishers.ofByteArray(new byte[1000])).build(),
            BodyHandlers.ofString()).statusCode());
        List<CompletableFuture<Boolean>> many = IntStream.range(0, 100)
            .mapToObj(number -> CLIENT.sendAsync(ask("/echo?" + number).build(), BodyHandlers.ofString())
                .thenApply(answer -> answer.body().contains("\"/echo?" + number + "\"")))
            .collect(Collectors.toList());
        tell("concurrent", "" + many.stream().allMatch(CompletableFuture::join));
        tell("paused", quoted(CLIENT.send(ask("/paused").build(), BodyHandlers.ofLines()).body().collect(Collectors.joining("|"))));
        try (InputStream endless = CLIENT.send(ask("/endless").build(), BodyHandlers.ofInputStream()).body()) {
            tell("left", "" + endless.readNBytes(100_000).length);
        }
        tell("last", text(ask("/echo?last")));
        System.exit(0);
    }

    private static HttpRequest.Builder ask(String path) {
        return HttpRequest.newBuilder(URI.create(BASE + path)).header("X-Api-Key", KEY);
    }

    private static String text(HttpRequest.Builder request) throws Exception {
        return CLIENT.send(request.build(), BodyHandlers.ofString()).body();
    }

    private static void tell(String step, String json) {
        System.out.println("{\"step\": " + quoted(step) + ", \"got\": " + json + "}");
    }

    private static String quoted(String plain) {
        return '"' + plain.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    private static String hex(byte[] bytes) {
        return java.util.HexFormat.of().formatHex(bytes);
    }

    /** A WebSocket: text there and back, then a ping whose pong closes it. */
    private static void socket() {
        CompletableFuture<String> done = new CompletableFuture<>();
        StringBuilder received = new StringBuilder();
        WebSocket socket = CLIENT.newWebSocketBuilder().buildAsync(URI.create(BASE.replace("http:", "ws:") + "/socket"), new WebSocket.Listener() {
            @Override
            public CompletionStage<?> onText(WebSocket from, CharSequence part, boolean last) {
                received.append(part);
                from.request(1);
                if (last) {
                    from.sendPing(ByteBuffer.wrap(new byte[] {1, 2, 3}));
                }
                return null;
            }

            @Override
            public CompletionStage<?> onPong(WebSocket from, ByteBuffer payload) {
                received.append(" pong ").append(payload.remaining());
                from.request(1);
                from.sendClose(WebSocket.NORMAL_CLOSURE, "enough");
                return null;
            }

            @Override
            public CompletionStage<?> onClose(WebSocket from, int code, String reason) {
                done.complete(received + " " + code);
                return null;
            }

            @Override
            public void onError(WebSocket from, Throwable error) {
                done.completeExceptionally(error);
            }
        }).join();
        socket.sendText("word ".repeat(10), false).thenCompose(sent -> socket.sendText("end", true));
        tell("socket", quoted(done.join()));
        System.exit(0);
    }
}
