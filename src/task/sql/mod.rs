//! SQL of a dump: a stream cut into statements ([`lexer`]), what a statement is about ([`statement`]), and statements carried out in a
//! database that nobody uses yet ([`making`]).

pub mod lexer;
pub mod making;
pub mod statement;
