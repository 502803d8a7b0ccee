/**
 * Waits, counted to three digits as in the bench: exactly below 2048, then in
 * steps that double with the value. A row has the values that are shifted by its
 * number to fit into eleven bits; rows are created on demand.
 */
final class Waits {
    private static final int ROW_LENGTH = 2048;
    private final long[][] rows = new long[64][];

    void record(long nanos) {
        long value = Math.max(0, nanos);
        int shift = Math.max(0, 64 - Long.numberOfLeadingZeros(value) - 11);
        row(shift)[(int) (value >>> shift)]++;
    }

    void add(Waits other) {
        for (int shift = 0; shift < rows.length; shift++) {
            long[] from = other.rows[shift];
            for (int i = 0; from != null && i < ROW_LENGTH; i++) {
                row(shift)[i] += from[i];
            }
        }
    }

    private long[] row(int shift) {
        if (rows[shift] == null) {
            rows[shift] = new long[ROW_LENGTH];
        }
        return rows[shift];
    }

    /** Value, count, value, count and so on, as JSON. */
    String toJson() {
        StringBuilder json = new StringBuilder("[");
        for (int shift = 0; shift < rows.length; shift++) {
            for (int i = 0; rows[shift] != null && i < ROW_LENGTH; i++) {
                if (rows[shift][i] > 0) {
                    json.append(json.length() > 1 ? "," : "");
                    json.append((long) i << shift).append(',').append(rows[shift][i]);
                }
            }
        }
        return json.append(']').toString();
    }
}
