module robin.test/real/http

go 1.22
