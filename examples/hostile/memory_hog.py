n = input()
tables = [bytearray(b"\x01") * 2**20 for _ in range(1024)]  # 1 GiB, every page of it touched
print(len(tables), n)
