module fairpool.example/sqlpeer

go 1.18
