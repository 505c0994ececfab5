#![no_main]

keyrail_fuzz::target!(log_files);
