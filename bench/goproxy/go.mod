module robin.test/bench/goproxy

go 1.24
