/** One line of the bench's requests. */
record Request(int threads, int connections, long holdNanos, String kind, long millis, boolean timed) {
    static Request parse(String line) {
        String[] words = line.split(" ");
        return new Request(
                Integer.parseInt(words[0]), Integer.parseInt(words[1]), Long.parseLong(words[2]),
                words[3], Long.parseLong(words[4]), Boolean.parseBoolean(words[5]));
    }

    boolean sameCell(Request other) {
        return other != null && threads == other.threads && connections == other.connections
                && holdNanos == other.holdNanos && kind.equals(other.kind);
    }
}
