"""MLPerf power runs made by others: SPEC PTDaemon's meter log beside loadgen's, lined up and summed up."""
