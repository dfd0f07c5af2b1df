module robin.test/bench/load

go 1.24
