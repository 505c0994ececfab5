#![no_main]

keyrail_fuzz::target!(node);
