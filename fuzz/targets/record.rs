#![no_main]

keyrail_fuzz::target!(record);
