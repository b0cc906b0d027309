//! SQL over the books: PostgreSQL wire and HTTP.
