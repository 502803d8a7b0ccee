//! The driver's `Queryable`, for a connection and for a transaction.

use mysql::prelude::{AsStatement, FromRow, Queryable};
use mysql::{
    Binary, Error, FromRowError, Params, QueryResult, Statement, Text, from_row, from_row_opt,
};

use super::rows::Answer;
use super::{Connection, Transaction};

/// The trait's other methods call these.
macro_rules! queryable {
    ($type:ty) => {
        impl $type {
            fn send<Q: AsRef<str>>(&mut self, query: Q) -> Answer<'_, Text> {
                let (inner, state) = self.parts();
                state.read(query.as_ref());
                Answer::new(inner.query_iter(query), state)
            }

            fn execute<S, P>(
                &mut self,
                statement: S,
                params: P,
            ) -> Result<Answer<'_, Binary>, Error>
            where
                S: AsStatement,
                P: Into<Params>,
            {
                // By `prep` of this type, which reads the text.
                let statement = statement.as_statement(self)?;
                let (inner, state) = self.parts();
                state.execute();
                Ok(Answer::new(inner.exec_iter(&*statement, params), state))
            }
        }

        impl Queryable for $type {
            fn query_iter<Q: AsRef<str>>(
                &mut self,
                query: Q,
            ) -> Result<QueryResult<'_, '_, '_, Text>, Error> {
                self.send(query).lend()
            }

            fn query_first<T, Q>(&mut self, query: Q) -> Result<Option<T>, Error>
            where
                Q: AsRef<str>,
                T: FromRow,
            {
                Ok(self.send(query).first()?.map(from_row))
            }

            fn query_first_opt<T, Q>(
                &mut self,
                query: Q,
            ) -> Result<Option<Result<T, FromRowError>>, Error>
            where
                Q: AsRef<str>,
                T: FromRow,
            {
                Ok(self.send(query).first()?.map(from_row_opt))
            }

            fn query_fold<T, F, Q, U>(&mut self, query: Q, init: U, mut f: F) -> Result<U, Error>
            where
                Q: AsRef<str>,
                T: FromRow,
                F: FnMut(U, T) -> U,
            {
                self.send(query).fold(init, |folded, row| f(folded, from_row(row)))
            }

            fn query_fold_opt<T, F, Q, U>(
                &mut self,
                query: Q,
                init: U,
                mut f: F,
            ) -> Result<U, Error>
            where
                Q: AsRef<str>,
                T: FromRow,
                F: FnMut(U, Result<T, FromRowError>) -> U,
            {
                self.send(query).fold(init, |folded, row| f(folded, from_row_opt(row)))
            }

            fn query_drop<Q: AsRef<str>>(&mut self, query: Q) -> Result<(), Error> {
                self.send(query).finish()
            }

            fn prep<Q: AsRef<str>>(&mut self, query: Q) -> Result<Statement, Error> {
                let (inner, state) = self.parts();
                state.read(query.as_ref());
                state.note(inner.prep(query))
            }

            fn close(&mut self, statement: Statement) -> Result<(), Error> {
                let (inner, state) = self.parts();
                state.note(inner.close(statement))
            }

            fn exec_iter<S, P>(
                &mut self,
                statement: S,
                params: P,
            ) -> Result<QueryResult<'_, '_, '_, Binary>, Error>
            where
                S: AsStatement,
                P: Into<Params>,
            {
                self.execute(statement, params)?.lend()
            }

            fn exec_batch<S, P, I>(&mut self, statement: S, params: I) -> Result<(), Error>
            where
                S: AsStatement,
                P: Into<Params>,
                I: IntoIterator<Item = P>,
            {
                let statement = statement.as_statement(self)?;
                let (inner, state) = self.parts();
                state.execute();
                // The driver reads them, and does not tell of their errors.
                state.has_lent_rows |= statement.num_columns() > 0;
                state.note(inner.exec_batch(&*statement, params))
            }

            fn exec_first<T, S, P>(&mut self, statement: S, params: P) -> Result<Option<T>, Error>
            where
                S: AsStatement,
                P: Into<Params>,
                T: FromRow,
            {
                Ok(self.execute(statement, params)?.first()?.map(from_row))
            }

            fn exec_first_opt<T, S, P>(
                &mut self,
                statement: S,
                params: P,
            ) -> Result<Option<Result<T, FromRowError>>, Error>
            where
                S: AsStatement,
                P: Into<Params>,
                T: FromRow,
            {
                Ok(self.execute(statement, params)?.first()?.map(from_row_opt))
            }

            fn exec_fold<T, S, P, U, F>(
                &mut self,
                statement: S,
                params: P,
                init: U,
                mut f: F,
            ) -> Result<U, Error>
            where
                S: AsStatement,
                P: Into<Params>,
                T: FromRow,
                F: FnMut(U, T) -> U,
            {
                let answer = self.execute(statement, params)?;
                answer.fold(init, |folded, row| f(folded, from_row(row)))
            }

            fn exec_fold_opt<T, S, P, U, F>(
                &mut self,
                statement: S,
                params: P,
                init: U,
                mut f: F,
            ) -> Result<U, Error>
            where
                S: AsStatement,
                P: Into<Params>,
                T: FromRow,
                F: FnMut(U, Result<T, FromRowError>) -> U,
            {
                let answer = self.execute(statement, params)?;
                answer.fold(init, |folded, row| f(folded, from_row_opt(row)))
            }

            fn exec_drop<S, P>(&mut self, statement: S, params: P) -> Result<(), Error>
            where
                S: AsStatement,
                P: Into<Params>,
            {
                self.execute(statement, params)?.finish()
            }
        }
    };
}

queryable!(Connection);
queryable!(Transaction<'_>);
