n = input()
tables = []
for _ in range(1024):  # 1 GiB in all, every page of it touched
    tables.append(bytearray(b"\x01") * 2**20)
print(len(tables), n)
