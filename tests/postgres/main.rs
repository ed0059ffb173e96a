//! The PostgreSQL tier: the tasks, as a Job runs them, against a private PostgreSQL.
//!
//! Each test runs the program itself and reads its report, in a database of its own. `support` starts the server and
//! makes sure that nothing of it outlives the tests.

mod append_only;
mod authentication;
mod backup;
mod connect;
mod crashed;
mod cycle;
mod delete;
mod dump;
mod dump_homeserver;
mod exclude;
mod for_good;
mod full_data_folder;
mod full_disk;
mod half;
mod in_place;
mod inspect;
mod interrupted;
mod killed;
mod language;
mod late;
mod media;
mod media_found;
mod media_links;
mod memory;
mod others;
mod portable;
mod preflight;
mod put_aside;
mod reach;
mod restore;
mod restore_schema;
mod retain;
mod settings;
mod somebody_else;
mod storage;
mod support;
mod tables_elsewhere;
mod unmarked;
mod unwritable;
mod vacuum;
mod vanished;
mod verify;
mod verify_synapse;
mod white_space;
