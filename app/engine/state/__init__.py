"""Where state is: RocksDB, its changelogs, standbys and global tables."""
