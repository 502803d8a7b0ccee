import java.sql.*;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Executor;

/** Does nothing and is always valid. It runs no statements. */
final class StubConnection implements Connection {
    private static SQLException unused() {
        return new SQLFeatureNotSupportedException("the stub runs no statements");
    }

    // Called by the pool.
    @Override public boolean isValid(int timeout) { return true; }
    @Override public void close() { }
    @Override public boolean isClosed() { return false; }
    @Override public void abort(Executor executor) { }
    @Override public boolean getAutoCommit() { return true; }
    @Override public void setAutoCommit(boolean on) { }
    @Override public void commit() { }
    @Override public void rollback() { }
    @Override public boolean isReadOnly() { return false; }
    @Override public void setReadOnly(boolean on) { }
    @Override public String getCatalog() { return null; }
    @Override public void setCatalog(String catalog) { }
    @Override public String getSchema() { return null; }
    @Override public void setSchema(String schema) { }
    @Override public int getTransactionIsolation() { return TRANSACTION_READ_COMMITTED; }
    @Override public void setTransactionIsolation(int level) { }
    @Override public int getNetworkTimeout() { return 0; }
    @Override public void setNetworkTimeout(Executor executor, int millis) { }
    @Override public SQLWarning getWarnings() { return null; }
    @Override public void clearWarnings() { }
    @Override public int getHoldability() { return ResultSet.CLOSE_CURSORS_AT_COMMIT; }
    @Override public void setHoldability(int holdability) { }
    @Override public void setClientInfo(String name, String value) { }
    @Override public void setClientInfo(Properties properties) { }
    @Override public String getClientInfo(String name) { return null; }
    @Override public Properties getClientInfo() { return new Properties(); }
    @Override public <T> T unwrap(Class<T> type) { return null; }
    @Override public boolean isWrapperFor(Class<?> type) { return false; }

    // Never called in this bench.
    @Override public Statement createStatement() throws SQLException { throw unused(); }
    @Override public Statement createStatement(int a, int b) throws SQLException { throw unused(); }
    @Override public Statement createStatement(int a, int b, int c) throws SQLException { throw unused(); }
    @Override public PreparedStatement prepareStatement(String s) throws SQLException { throw unused(); }
    @Override public PreparedStatement prepareStatement(String s, int a) throws SQLException { throw unused(); }
    @Override public PreparedStatement prepareStatement(String s, int[] a) throws SQLException { throw unused(); }
    @Override public PreparedStatement prepareStatement(String s, String[] a) throws SQLException { throw unused(); }
    @Override public PreparedStatement prepareStatement(String s, int a, int b) throws SQLException { throw unused(); }
    @Override public PreparedStatement prepareStatement(String s, int a, int b, int c) throws SQLException { throw unused(); }
    @Override public CallableStatement prepareCall(String s) throws SQLException { throw unused(); }
    @Override public CallableStatement prepareCall(String s, int a, int b) throws SQLException { throw unused(); }
    @Override public CallableStatement prepareCall(String s, int a, int b, int c) throws SQLException { throw unused(); }
    @Override public String nativeSQL(String sql) throws SQLException { throw unused(); }
    @Override public DatabaseMetaData getMetaData() throws SQLException { throw unused(); }
    @Override public Map<String, Class<?>> getTypeMap() throws SQLException { throw unused(); }
    @Override public void setTypeMap(Map<String, Class<?>> map) throws SQLException { throw unused(); }
    @Override public Savepoint setSavepoint() throws SQLException { throw unused(); }
    @Override public Savepoint setSavepoint(String name) throws SQLException { throw unused(); }
    @Override public void rollback(Savepoint savepoint) throws SQLException { throw unused(); }
    @Override public void releaseSavepoint(Savepoint savepoint) throws SQLException { throw unused(); }
    @Override public Clob createClob() throws SQLException { throw unused(); }
    @Override public Blob createBlob() throws SQLException { throw unused(); }
    @Override public NClob createNClob() throws SQLException { throw unused(); }
    @Override public SQLXML createSQLXML() throws SQLException { throw unused(); }
    @Override public Array createArrayOf(String type, Object[] elements) throws SQLException { throw unused(); }
    @Override public Struct createStruct(String type, Object[] attributes) throws SQLException { throw unused(); }
}
