#![no_main]

keyrail_fuzz::target!(row);
