import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.apache.avro.NameValidator;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;

/** Lines of "reader TAB writer" on stdin; one verdict a line on stdout: what Apache Avro for Java says of the pair. */
public final class Verdicts {
  public static void main(String[] arguments) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      String[] pair = line.split("\t");
      out.println(verdict(pair[0], pair[1]));
    }
  }

  private static String verdict(String reader, String writer) {
    Schema reads;
    Schema writes;
    try {
      reads = parse(reader);
    } catch (RuntimeException refused) {
      return "INVALID_READER " + refused.getMessage();
    }
    try {
      writes = parse(writer);
    } catch (RuntimeException refused) {
      return "INVALID_WRITER " + refused.getMessage();
    }
    try {
      return SchemaCompatibility.checkReaderWriterCompatibility(reads, writes).getType().toString();
    } catch (RuntimeException refused) {
      return "REFUSED " + refused.getMessage();
    }
  }

  private static Schema parse(String text) {
    return new Schema.Parser(NameValidator.STRICT_VALIDATOR).setValidateDefaults(true).parse(text);
  }
}
