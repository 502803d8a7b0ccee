//! The methods that a client and a transaction have alike.

/// Defines them. `self.parts()` gives the driver's part and what is known of the session.
macro_rules! statement_methods {
    () => {
        /// Executes a statement, and returns the number of rows that it changed.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::execute`].
        pub fn execute<T>(
            &mut self,
            query: &T,
            params: &[&(dyn ToSql + Sync)],
        ) -> Result<u64, Error>
        where
            T: ?Sized + ToStatement,
        {
            let (inner, state) = self.parts();
            call::execute(inner, state, query.source(), params)
        }

        /// Executes a statement, and returns its rows.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::query`].
        pub fn query<T>(
            &mut self,
            query: &T,
            params: &[&(dyn ToSql + Sync)],
        ) -> Result<Vec<Row>, Error>
        where
            T: ?Sized + ToStatement,
        {
            let (inner, state) = self.parts();
            call::query(inner, state, query.source(), params)
        }

        /// Executes a statement that returns exactly one row.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::query_one`].
        pub fn query_one<T>(
            &mut self,
            query: &T,
            params: &[&(dyn ToSql + Sync)],
        ) -> Result<Row, Error>
        where
            T: ?Sized + ToStatement,
        {
            let (inner, state) = self.parts();
            call::query_one(inner, state, query.source(), params)
        }

        /// Executes a statement that returns one row or none.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::query_opt`].
        pub fn query_opt<T>(
            &mut self,
            query: &T,
            params: &[&(dyn ToSql + Sync)],
        ) -> Result<Option<Row>, Error>
        where
            T: ?Sized + ToStatement,
        {
            let (inner, state) = self.parts();
            call::query_opt(inner, state, query.source(), params)
        }

        /// Executes a statement, and returns its rows as they arrive. Unless another call
        /// follows, the pool reads what is left of them before the next caller gets the
        /// connection.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::query_raw`].
        pub fn query_raw<T, P, I>(&mut self, query: &T, params: I) -> Result<RowIter<'_>, Error>
        where
            T: ?Sized + ToStatement,
            P: BorrowToSql,
            I: IntoIterator<Item = P>,
            I::IntoIter: ExactSizeIterator,
        {
            let (inner, state) = self.parts();
            let params = params.into_iter();
            let effect = state.admit(inner, query.source())?;
            let sent = state.commented(query.source());
            let plan = state.plan_of_stream(inner, query.source(), sent.as_deref(), params.len());
            let result = plan.and_then(|plan| match plan {
                call::Plan::Text(sql) => inner.query_raw(sql, params),
                call::Plan::Named(statement) => inner.query_raw(statement, params),
                call::Plan::Unnamed(sql, types) => {
                    inner.query_typed_raw(sql, params.zip(types.iter().cloned()))
                }
            });
            let rows = state.streams(query.source(), effect, result)?;
            Ok(RowIter::new(rows, state))
        }

        /// Executes a statement whose parameters have these types, in one round trip.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::execute_typed`].
        pub fn execute_typed(
            &mut self,
            query: &str,
            params: &[(&(dyn ToSql + Sync), Type)],
        ) -> Result<u64, Error> {
            let (inner, state) = self.parts();
            state.text_call(inner, query, |inner, sql| inner.execute_typed(sql, params))
        }

        /// Executes a statement whose parameters have these types, in one round trip, and
        /// returns its rows.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::query_typed`].
        pub fn query_typed(
            &mut self,
            query: &str,
            params: &[(&(dyn ToSql + Sync), Type)],
        ) -> Result<Vec<Row>, Error> {
            let (inner, state) = self.parts();
            state.text_call(inner, query, |inner, sql| inner.query_typed(sql, params))
        }

        /// As [`query_typed`](Self::query_typed), for exactly one row.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::query_typed_one`].
        pub fn query_typed_one(
            &mut self,
            query: &str,
            params: &[(&(dyn ToSql + Sync), Type)],
        ) -> Result<Row, Error> {
            let (inner, state) = self.parts();
            state.text_call(inner, query, |inner, sql| inner.query_typed_one(sql, params))
        }

        /// As [`query_typed`](Self::query_typed), for one row or none.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::query_typed_opt`].
        pub fn query_typed_opt(
            &mut self,
            query: &str,
            params: &[(&(dyn ToSql + Sync), Type)],
        ) -> Result<Option<Row>, Error> {
            let (inner, state) = self.parts();
            state.text_call(inner, query, |inner, sql| inner.query_typed_opt(sql, params))
        }

        /// As [`query_typed`](Self::query_typed), with rows as they arrive: see
        /// [`query_raw`](Self::query_raw).
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::query_typed_raw`].
        pub fn query_typed_raw<P, I>(
            &mut self,
            query: &str,
            params: I,
        ) -> Result<RowIter<'_>, Error>
        where
            P: BorrowToSql,
            I: IntoIterator<Item = (P, Type)>,
        {
            let (inner, state) = self.parts();
            let effect = state.admit(inner, call::Source::Text(query))?;
            let sent = state.commented(call::Source::Text(query));
            let result = inner.query_typed_raw(sent.as_deref().unwrap_or(query), params);
            let rows = state.streams(call::Source::Text(query), effect, result)?;
            Ok(RowIter::new(rows, state))
        }

        /// Prepares a statement, which can be executed as long as the connection lives.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::prepare`].
        pub fn prepare(&mut self, query: &str) -> Result<Statement, Error> {
            self.prepare_typed(query, &[])
        }

        /// Prepares a statement of whose parameters some types are given.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::prepare_typed`].
        pub fn prepare_typed(&mut self, query: &str, types: &[Type]) -> Result<Statement, Error> {
            let (inner, state) = self.parts();
            state.prepare(inner, query, types)
        }

        /// Executes a `COPY FROM STDIN`, and returns a writer for its data.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::copy_in`]. If the server refuses the `COPY`, the driver is out
        /// of step with it: the next calls on the connection fail too, and the pool closes it
        /// when it returns.
        pub fn copy_in<T>(&mut self, query: &T) -> Result<CopyInWriter<'_>, Error>
        where
            T: ?Sized + ToStatement,
        {
            let (inner, state) = self.parts();
            let effect = state.admit_copy(inner, query.source())?;
            let sent = state.commented(query.source());
            let prepared;
            let statement = match query.source().named() {
                Ok(statement) => statement,
                Err(sql) => {
                    let result = inner.prepare(sent.as_deref().unwrap_or(sql));
                    prepared = state.answered(result)?;
                    &prepared
                }
            };
            state.copies_in(query.source(), effect, inner.copy_in(statement))
        }

        /// Executes a `COPY TO STDOUT`, and returns a reader of its data.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::copy_out`].
        pub fn copy_out<T>(&mut self, query: &T) -> Result<CopyOutReader<'_>, Error>
        where
            T: ?Sized + ToStatement,
        {
            let (inner, state) = self.parts();
            let effect = state.admit_copy(inner, query.source())?;
            let sent = state.commented(query.source());
            let result = match query.source().named() {
                Ok(statement) => inner.copy_out(statement),
                Err(sql) => inner.copy_out(sent.as_deref().unwrap_or(sql)),
            };
            state.streams(query.source(), effect, result)
        }

        /// Executes the statements of a text, and returns their answers as text.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::simple_query`].
        pub fn simple_query(&mut self, query: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
            let (inner, state) = self.parts();
            state.text_call(inner, query, |inner, sql| inner.simple_query(sql))
        }

        /// Executes the statements of a text.
        ///
        /// # Errors
        ///
        /// As [`postgres::Client::batch_execute`].
        pub fn batch_execute(&mut self, query: &str) -> Result<(), Error> {
            let (inner, state) = self.parts();
            state.text_call(inner, query, |inner, sql| inner.batch_execute(sql))
        }
    };
}

pub(super) use statement_methods;
