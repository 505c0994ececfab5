#![no_main]

keyrail_fuzz::target!(names);
