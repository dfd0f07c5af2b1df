import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;

/** One GET and one POST with Java's HttpClient and its defaults; one JSON object a line for each. */
public final class GetAndPost {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(arguments[0]));
        tell("get", client.send(request.GET().build(), BodyHandlers.ofString()));
        tell("post", client.send(request.POST(BodyPublishers.ofByteArray(new byte[300_000])).build(), BodyHandlers.ofString()));
        System.exit(0);
    }

    private static void tell(String step, HttpResponse<String> response) {
        System.out.printf("{\"step\": \"%s\", \"got\": [%d, \"%s\"]}%n", step, response.statusCode(), response.body());
    }
}
